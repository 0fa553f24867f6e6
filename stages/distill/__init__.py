"""Stage two: train an image student purely against cached teacher embeddings."""
