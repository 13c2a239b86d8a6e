"""Raw rows to the documents of a corpus: read, clean, filter, deduplicate, decontaminate, select."""
