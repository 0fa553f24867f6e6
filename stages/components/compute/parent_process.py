"""End a process with the one that started it, however that one ends."""

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """Let a thread end this process when the one that asked for it is gone, even inside a library call.

    Nobody else would: a forked process belongs to the server that forked it, and the server lives as long as any
    process that it has forked. Where the command is killed, both would stay for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
