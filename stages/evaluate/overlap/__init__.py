"""Find evaluation images that the student has seen in training, by hash and by near copies."""
