"""Hold what stages share, in rooms by noun; nothing here imports a stage."""
