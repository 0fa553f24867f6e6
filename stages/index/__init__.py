"""Build a faiss index of the embeddings of images or captions."""
