"""Off-policy evaluation: the value of a policy, estimated from what other policies logged."""
