"""Stage one: every distinct caption through the frozen teacher, once."""
