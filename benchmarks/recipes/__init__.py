"""Recipes of training on real pairs, compared with equal data and steps: ``python -m benchmarks.recipes --help``."""
