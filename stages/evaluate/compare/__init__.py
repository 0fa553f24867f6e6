"""Hold two evaluations against each other, image by image."""
