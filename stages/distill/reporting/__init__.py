"""Report a training's numbers: to `metrics.jsonl`, to the terminal, and to trackers."""
