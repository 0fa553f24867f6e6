"""Make the commands of stages, and the commands about artifacts."""
