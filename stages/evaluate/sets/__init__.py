"""What students are measured on: sets that options name, read and identified."""
