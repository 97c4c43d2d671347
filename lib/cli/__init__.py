"""Commands for people: run the pipeline, submit a job, look at the tables."""
