"""What serving knows of users right now: their latest events, the decisions made for them, and which release answers."""
