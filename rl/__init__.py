"""Decisions: the market with known truth, what a policy observes of it, learning from logs, off-policy evaluation."""
