"""From files and the generated world to packed rows: sources, mixture, packing, loader.

    sources/    formats: source[i] is a Sample              mixture.py   draw k -> which sample of which source
    packing.py  whole documents into rows of two budgets    loader.py    workers, rows of a step, exact resume

Only `loader` imports torch.
"""
