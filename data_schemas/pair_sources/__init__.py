"""Image-caption pairs in every usual form, read to one table: `kinds.find_source` tells which form a path is."""
