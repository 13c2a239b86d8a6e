"""The one training loop and what it stands on: configuration, checkpoints, records. It knows neither text nor tasks."""
