"""Retrieve, then rank: what is known of users and items at a moment, what each retriever proposes, and the ranker."""
