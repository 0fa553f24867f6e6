"""Retrieval, by exact ranks; what only `evaluate` measures lies there."""
