"""The commands that are made from stages, and those about artifacts."""
