"""The training loop, its step, its saved state, and what watches over them."""
