"""Pairs in tables of text: TSV, CSV and JSON lines, whatever their quoting and separator."""
