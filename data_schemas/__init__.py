"""Types for everything that lies on disk. Imports nothing of ours, and never torch."""
