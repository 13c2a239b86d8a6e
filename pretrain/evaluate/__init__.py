"""Evaluate the embeddings of an encoder folder."""
