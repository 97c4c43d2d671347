"""Retrieve, then rank: what is known of users and items at a moment, what each retriever proposes, and the ranker."""

from lib.statistics import gradient_boosting as gradient_boosting  # before trees.py imports LightGBM
