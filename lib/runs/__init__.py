"""One execution of a job, recorded: what it read, what it wrote, and when its result is out of date."""
