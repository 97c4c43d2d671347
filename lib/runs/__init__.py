"""Records each run of a job: what it read and wrote, and whether its result is out of date."""
