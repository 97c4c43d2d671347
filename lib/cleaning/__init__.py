"""From a record as received to a true event: fields, outcomes, sessions, bots, pseudonyms."""
