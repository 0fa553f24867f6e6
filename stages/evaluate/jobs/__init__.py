"""What is measured once and kept: an artifact for each checkpoint, set and task."""
