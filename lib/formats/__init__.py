"""A log as it is received: the mapping file that describes it, its files, their records."""
