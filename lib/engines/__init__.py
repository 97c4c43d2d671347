"""The engines, Spark and Ray: the only rooms of lib, rl and gan that know them."""
