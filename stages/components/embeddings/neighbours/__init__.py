"""Find the nearest other captions of every cached caption, exactly: an artifact that other stages ask for."""
