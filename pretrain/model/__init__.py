"""The encoder: building, initialization and forward passes."""
