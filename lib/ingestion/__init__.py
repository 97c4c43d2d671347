"""From a file of the log to records in bronze: what is new, what it holds, what is set aside."""
