"""Check a run folder and upload it to a model hub."""
