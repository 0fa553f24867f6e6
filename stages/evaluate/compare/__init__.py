"""Two evaluations held against each other, image by image."""
