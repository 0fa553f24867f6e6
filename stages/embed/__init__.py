"""A set of images through a student, once: embeddings in the layout of the teacher's captions."""
