"""Compare two evaluations image by image."""
