"""The side of images: fetched and packed ones, features and embeddings of them, and the networks that make these."""
