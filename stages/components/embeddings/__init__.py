"""Keep rows of embeddings on disk: write them, take them over, read them for search."""
