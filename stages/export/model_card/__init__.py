"""Write the model card: where a model comes from, and its figures with their intervals."""
