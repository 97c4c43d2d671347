"""What was known about users and items before a given moment."""
