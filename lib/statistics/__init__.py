"""Statistics with uncertainty: bootstrap intervals, metrics of classifiers, experiments."""
