"""Helpers of gather-cc's tests: a table of URLs, the command in-process, and its status table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from click.testing import CliRunner, Result
from misbehaving import LARGE

from cli import cli

HERE = ("--allow-private", "--workers", 0, "--max-bytes", LARGE // 2, "--backoff-s", 0.01)
# For servers that never answer; others may take longer on a busy machine.
SHORT = ("--read-timeout-s", 0.3, "--timeout-s", 0.6, "--connect-timeout-s", 0.5)


def write_table(path: Path, urls: Sequence[str], captions: Sequence[str] = ()) -> Path:
    captions = captions or [f"caption {number}" for number in range(len(urls))]
    lines = [f"{caption}\t{url}\n" for caption, url in zip(captions, urls, strict=True)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def run(table: Path, output: Path, *words: object) -> Result:
    arguments = ["gather-cc", str(table), "--output", str(output), *map(str, words)]
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def gather(table: Path, output: Path, *words: object) -> dict[str, Any]:
    result = run(table, output, *words, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def status_of(output: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(output / "status.parquet").to_pylist()
    return found
