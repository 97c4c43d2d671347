"""The engines: Spark and Ray are imported here, in the jobs and in the two train.py of rl and gan, and nowhere else."""
