"""Read the weights of a teacher: which files hold them, how they are mended, and what of them was not loaded."""
