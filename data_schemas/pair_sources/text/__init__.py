"""Read pairs from tables of text (TSV, CSV) in any quoting."""
