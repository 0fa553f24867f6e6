"""Make the commands of stages, and those about artifacts."""
