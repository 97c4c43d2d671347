"""Reading a log as received: the mapping file that describes it, its files and their records."""
