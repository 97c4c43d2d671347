"""Logged decisions as arrays, and as an environment."""
