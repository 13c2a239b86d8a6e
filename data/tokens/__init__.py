"""Documents to token shards and packed batches."""
