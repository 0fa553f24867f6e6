"""Stage one: embed every distinct caption once, by the frozen teacher."""
