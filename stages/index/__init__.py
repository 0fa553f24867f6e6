"""A faiss index over the embeddings of pictures or captions."""
