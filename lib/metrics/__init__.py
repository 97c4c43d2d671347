"""What Prometheus is told of a lake: its tables, its runs, and what was refused. Read from the tables, without Spark."""
