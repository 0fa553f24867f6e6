"""The built-in data set: captioned scenes drawn from handwritten digits, and a small teacher for them."""
