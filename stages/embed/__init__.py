"""A set of pictures through a student, once: embeddings in the layout of the teacher's captions."""
