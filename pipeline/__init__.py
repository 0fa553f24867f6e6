"""Fingerprints, artifacts, the stage runner and the options: knows files and hashes, not tensors."""
