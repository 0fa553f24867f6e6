"""How many processes read pictures."""

import os


def num_workers(wanted: int) -> int:
    """Turn ``--workers`` into a number of processes: -1 leaves one core to the student, and takes at most 8."""
    return wanted if wanted >= 0 else min(8, max(1, (os.cpu_count() or 1) - 1))
