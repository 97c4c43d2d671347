"""Storage: where tables and files are, how they are written and committed, and SQL over them."""
