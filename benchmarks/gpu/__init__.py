"""Measure on one GPU all that this project can only learn there, in minutes (docs/gpu.md).

1. `__main__` reads the options, and `plan` says which steps there are, in which order, and how long each may take.
2. `day` runs every step as a process of its own, and kills it with its children when its time is up.
3. `step` is that process: it calls the step's function and writes down each number as it comes (`records`).
4. `table` holds the numbers to their bars and prints them.

A step's function takes a `Setup` and yields figures by name; it knows nothing of processes, limits or files.
"""
