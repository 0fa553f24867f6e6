"""Where the numbers of a training go: `metrics.jsonl`, the terminal, and trackers."""
