"""Measure cached captions and features: each alone, and whether they fit together."""
