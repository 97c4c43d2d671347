"""How good generated pictures are, and whether they are copies."""
