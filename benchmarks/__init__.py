"""Measure the figures that README claims: ``python -m benchmarks``."""
