"""A market with known truth: shoppers, sessions, their log with its dirt, and the true value of any policy."""
