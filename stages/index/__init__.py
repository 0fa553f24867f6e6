"""A faiss index over the embeddings of images or captions."""
