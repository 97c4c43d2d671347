"""Storage: where tables and files lie, how they are written and committed, and SQL over them."""
