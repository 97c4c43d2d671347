"""Adverts composed of a generated picture and words."""
