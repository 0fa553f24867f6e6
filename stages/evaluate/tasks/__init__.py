"""Tasks by name: from a set and its embeddings to an entry of the report."""
