"""Builders of training data from what people have: PDFs, web pages, fonts and texts, tables, other models.

    build.py    the engine: a builder's items to shards, resumable, the same bytes whatever happens on the way
    engines.py  who makes the items: this process, a local pool, or Ray

A builder turns one item into samples; see `build.Builder`. Nothing here is imported by training: what is built is read
as any other source.
"""
