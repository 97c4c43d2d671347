"""Vectors of items from what the catalogue says and shows of them, so that an item without an interaction has one too."""
