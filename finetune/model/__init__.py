"""A model for a task: loading, layer-wise learning rates and freezing, adapters, pooling."""
