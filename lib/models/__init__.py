"""Torch modules and their training loops: the purchase encoder and the two towers. No Ray, no reading or writing."""
