"""A run's folder, log, progress bar and trackers."""
