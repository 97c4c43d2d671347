"""The command line: run the pipeline, submit a job, look at the tables."""
