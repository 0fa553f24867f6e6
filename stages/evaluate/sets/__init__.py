"""Read and identify the sets that options name.

`requested_sets` turns options into sets and what is asked of each; a set that cannot be read is told apart, so that it
fails alone.
"""
