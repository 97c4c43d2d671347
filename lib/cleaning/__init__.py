"""Turns records as received into true events: fields, outcomes, sessions, bots, pseudonyms."""
