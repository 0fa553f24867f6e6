"""Embeddings that tasks ask for, as artifacts: images once a student, captions once a teacher."""
