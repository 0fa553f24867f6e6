"""Stage two: an image student, trained purely against cached teacher embeddings."""
