"""A run's folder, log, progress and trackers."""
