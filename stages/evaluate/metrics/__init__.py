"""Measure embeddings and labels: pure functions, without sets, stores or files."""
