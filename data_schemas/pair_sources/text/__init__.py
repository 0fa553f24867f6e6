"""Read pairs from tables of text: TSV, CSV and JSON lines, whatever their quoting."""
