"""The embedded default: captioned scenes drawn from handwritten digits, and a small teacher for them."""
