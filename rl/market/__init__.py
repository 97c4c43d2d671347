"""A simulated market with known truth: shoppers, sessions, a log with dirty records, and the true value of any policy."""
