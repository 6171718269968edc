"""From files and the generated world to packed rows: sources, mixture, packing, loader.

    sources/    formats: source[i] is a Sample              mixture.py   draw k -> which sample of which source
    reading.py  draws to documents, in workers              packing.py   whole documents into rows of two budgets
    planning.py which rank encodes which documents          loader.py    rows of a step, skips, exact resume

Only the loader's modules import torch.
"""
