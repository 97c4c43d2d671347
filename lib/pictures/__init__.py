"""Product pictures: which the lake holds of each item, and their bytes as pixels."""
