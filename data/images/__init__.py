"""Images: read from folders, tables, archives and shards, decoded, deduplicated and stored as squares of pixels."""
