"""The engines, Spark and Ray: no other part of lib, rl or gan depends on them."""
