"""Recommendation lists: retrieve, rank, say why, and judge."""
