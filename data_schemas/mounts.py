"""Find devices by the kind of file system that is mounted from them."""

import contextlib
import os
import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")


def devices_of(kinds: "re.Pattern[str]") -> frozenset[int]:
    """Return the numbers of the devices whose file system is of one of these kinds; none where the system tells none.

    Args:
        kinds: Pattern that the whole name of a kind, such as ``fuse.sshfs``, has to match.
    """
    devices = set()
    with contextlib.suppress(OSError, ValueError, IndexError):  # no Linux, or none that says so
        for line in MOUNTS.read_text(errors="replace").splitlines():
            fields, _, rest = line.partition(" - ")
            if kinds.fullmatch(rest.split()[0]):
                major, _, minor = fields.split()[2].partition(":")
                devices.add(os.makedev(int(major), int(minor)))
    return frozenset(devices)
