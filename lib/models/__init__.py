"""Torch modules and their training loops: the purchase encoder and the two towers. No Ray; only tasks.py reads and writes."""
