"""Decisions: a simulated market with known truth, observations, learning from logs, off-policy evaluation."""
