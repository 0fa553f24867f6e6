"""Compute intervals and p-values of measures by resampling images."""
