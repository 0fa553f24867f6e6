"""Give measures intervals and p-values, by resampling images."""
