"""Measures what README claims in figures: ``python -m benchmarks``."""
