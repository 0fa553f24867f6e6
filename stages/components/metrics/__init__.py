"""Measure retrieval by exact ranks; what `evaluate` alone measures lies there."""
