"""Learning Q from logged decisions."""
