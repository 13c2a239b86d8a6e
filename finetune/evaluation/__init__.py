"""Metrics, calibration and baselines."""
