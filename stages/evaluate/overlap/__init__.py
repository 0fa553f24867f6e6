"""Evaluation images that the student has seen in training, found by hash and by near copies."""
