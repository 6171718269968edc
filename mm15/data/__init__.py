"""From files and the generated world to packed rows: sources, mixture, packing, loader.

    sources/   formats: `source[i]` is a Sample                 mixture.py   draw k -> which source, which of its samples
    packing.py whole documents into rows of two budgets         loader.py    workers, rows per step, exact resume

Only `loader` imports torch.
"""
