"""Stage three: what the student learned, in figures and in images."""
