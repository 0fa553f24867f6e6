"""Gathers photographs from a server that misbehaves, and prints what became of rows, the rate and the memory.

``python -m tests.support.gather_photographs --manifest train.tsv --rows 5000``: its photographs and captions, again
and again if there are fewer, every eighth row (``--bad-every``) in one of the ways of `tests/support/misbehaving.py`
instead. The server runs on this machine, beside it.
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from data_schemas.pair_sources.text.manifest_table import read_manifest
from tests.support.misbehaving import HOSTS, WAYS, Server, serving

ROOT = Path(__file__).parents[2]
_ARGUMENTS = {"file": "absent.jpg", "slow": "1", "redirect": "/good", "redirect_and_close": "/good", "busy_once": "1"}


def rows_of(path: Path, num_rows: int, server: Server, *, bad_every: int) -> Iterator[str]:
    """Lines of the table: caption and URL."""
    manifest = read_manifest(path, limit=num_rows).table
    pairs = itertools.cycle(zip(manifest["image"].to_pylist(), manifest["caption"].to_pylist(), strict=True))
    ways = itertools.cycle(sorted(WAYS))
    for number, (image, caption) in enumerate(itertools.islice(pairs, num_rows)):
        is_bad = bad_every > 0 and number % bad_every == bad_every - 1
        way = next(ways) if is_bad else "file"
        argument = _ARGUMENTS.get(way, "") if is_bad else image
        yield f"{caption}\t{server.url(f'{way}/{argument}?{number}', HOSTS[number % len(HOSTS)])}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--bad-every", type=int, default=8)
    parser.add_argument("words", nargs="*", help="Further words for gather-cc, after --.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(options.manifest.parent) as server:
        table = Path(folder) / "table.tsv"
        table.write_text(
            "".join(rows_of(options.manifest, options.rows, server, bad_every=options.bad_every)), encoding="utf-8"
        )
        command = [sys.executable, "cli.py", "gather-cc", table, "--output", Path(folder) / "out", "--allow-private"]
        command += [
            "--max-bytes",
            "1000000",
            "--timeout-s",
            "10",
            "--read-timeout-s",
            "5",
            "--min-side",
            "32",
            "--json",
        ]
        start = time.monotonic()
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*map(str, command), *options.words],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        seconds = time.monotonic() - start
        counts = json.loads(done.stdout)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = resource.getrusage(resource.RUSAGE_SELF)
        sys.stdout.write(
            f"{counts['statuses']['ok'] / seconds:.0f} images/s kept over the {seconds:.1f} s of the whole command; "
            f"its CPU {used.ru_utime:.1f} s and {used.ru_stime:.1f} s of the system's; "
            f"most memory of a process {used.ru_maxrss / 1000:.0f} MB; "
            f"CPU of the server {own.ru_utime + own.ru_stime:.1f} s\n"
        )


if __name__ == "__main__":
    main()
