"""What stages share, in rooms by noun. Imports no stage."""
