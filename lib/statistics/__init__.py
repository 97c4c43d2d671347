"""Uncertainty: bootstrap intervals, metrics of classifiers, experiments."""
