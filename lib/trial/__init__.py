"""`cartwheel formats --try`: what a mapping makes of the first rows of a file, and a proposal for a file that none knows."""
