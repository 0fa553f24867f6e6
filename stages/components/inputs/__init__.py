"""Declare options that name pairs or images, and check the paths that they name."""
