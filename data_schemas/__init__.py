"""What lies on disk, as types. Imports nothing of ours, and never torch."""
