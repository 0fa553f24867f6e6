"""Before stage two: shrink images and store them in large files, so that training reads them quickly."""
