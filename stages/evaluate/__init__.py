"""Stage three: measure what the student learned, and show it in figures and in images."""
