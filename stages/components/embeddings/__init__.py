"""Rows of embeddings on disk: written, taken over from earlier artifacts, and read for search."""
