"""Off-policy evaluation: what a policy would be worth, from what others logged."""
