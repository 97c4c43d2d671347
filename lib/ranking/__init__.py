"""Recommendation lists: retrieval, ranking, reasons and evaluation."""
