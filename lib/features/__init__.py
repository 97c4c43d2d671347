"""What was known of a user or an item before a moment."""
