"""How long embedded weights take: the first call (hash, conversion) and a second load of the decoder and its tokenizer.

    python -m bench.pretrained            in a fresh cache
    python -m bench.pretrained --warm     in the user's cache

Each load runs in a process of its own, with the imports timed apart. Exits with 1 when the second load takes over 3 s.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

LIMIT_S = 3.0
CODE = """
import time
start = time.perf_counter()
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
from mm15.pretrained import resolve
imported = time.perf_counter()
folder = resolve({name!r})
resolved = time.perf_counter()
if {name!r}.startswith("smollm2"):
    AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
else:
    AutoModel.from_pretrained(folder)
loaded = time.perf_counter()
print(imported - start, resolved - imported, loaded - resolved)
"""


def measure(name: str) -> tuple[float, float, float]:
    """Seconds of import, resolve and from_pretrained in a fresh process."""
    command = [sys.executable, "-c", CODE.format(name=name)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    imports, resolving, loading = map(float, output.split())
    return imports, resolving, loading


def main() -> int:
    """Measure both names twice and print one line each."""
    slow = 0
    for name in ("smollm2-135m", "focus-vit-s14"):
        for label in ("first", "second"):
            imports, resolving, loading = measure(name)
            print(f"{name:14} {label:6} import {imports:5.2f} s  resolve {resolving:6.2f} s  load {loading:5.2f} s")
        slow += resolving + loading > LIMIT_S
    return int(slow > 0)


if __name__ == "__main__":
    if "--warm" in sys.argv[1:]:
        sys.exit(main())
    with tempfile.TemporaryDirectory() as cache:
        os.environ["MM15_CACHE"] = cache
        sys.exit(main())
