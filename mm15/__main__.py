"""``python -m mm15`` and ``torchrun -m mm15``."""

from .cli import main

main()
