"""A call that is killed or stopped, and the same call again: nothing whole is asked twice, and the end is the same."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gathering import HERE, gather, run, status_of, write_table
from misbehaving import Server
from workbench import start_process

from data_schemas.images.gathered_folder import block_numbers, read_outcomes, rows_of

pytest.importorskip("aiohttp")

PATHS = ("slow/0.05", "missing", "html", "broken_once", "slow/0.02", "redirect//good", "close_mid_body")
# Blocks are written often, so that a kill finds some rows written down and some not.
SCRIPT = """
import os
import cli
from stages.gather_cc import crawl_loop as gatherer
from stages.gather_cc import outcome_journal as journal
journal._BLOCK_S = gatherer._ALARM_S = 0.05
os.fsync = lambda _: None
if __name__ == "__main__":
    cli.main()
"""
WORDS = (*HERE, "--retries", 1, "--concurrency", 4)


@pytest.fixture
def table(server: Server, tmp_path: Path) -> Path:
    """Rows of all kinds, of which some share a URL."""
    urls = [server.url(f"{PATHS[number % len(PATHS)]}?{tmp_path.name}{number}") for number in range(70)]
    return write_table(tmp_path / "table.tsv", [*urls, *urls[::5]], ['say "cheese"', *map(str, range(83))])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    script = tmp_path / "often.py"
    script.write_text(SCRIPT)
    processes: list[subprocess.Popen[str]] = []

    def begin(table: Path, output: Path, *words: object) -> "subprocess.Popen[str]":
        processes.append(start_process("gather-cc", table, "--output", output, *WORDS, *words, script=script))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def wait_for_blocks(process: "subprocess.Popen[str]", output: Path, number: int) -> None:
    deadline = time.monotonic() + 60
    while len(block_numbers(output)) < number:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def end_state(output: Path) -> tuple[list[dict[str, Any]], bytes, dict[str, bytes]]:
    """Return all that a call leaves, but for how long it took."""
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in status_of(output)]
    images = {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*.jpg")}
    return rows, (output / "manifest.tsv").read_bytes(), images


@pytest.mark.parametrize("blocks", [1, 3])
def test_killed__call_goes_on_and_ends_as_an_undisturbed_one(
    blocks: int, table: Path, server: Server, tmp_path: Path, start: Callable[..., Any]
) -> None:
    process = start(table, tmp_path / "killed", "--workers", 1)
    wait_for_blocks(process, tmp_path / "killed", blocks)
    process.send_signal(signal.SIGKILL)
    process.wait()
    written_down = set(rows_of(read_outcomes(tmp_path / "killed")).tolist())
    assert 0 < len(written_down) < 70
    before = server.asked.copy()
    found = gather(table, tmp_path / "killed", *WORDS)
    assert found["asked"] == 70 - len(written_down)
    for row in status_of(tmp_path / "killed"):
        path = row["url"].partition(f":{server.port}")[2]
        if row["row"] in written_down:
            assert server.asked[path] == before[path]
    server.asked.clear()  # so that what is broken once is so again
    gather(table, tmp_path / "undisturbed", *WORDS)
    assert end_state(tmp_path / "killed") == end_state(tmp_path / "undisturbed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped__call_ends_in_seconds_and_says_how_to_go_on(
    number: signal.Signals, table: Path, server: Server, tmp_path: Path, start: Callable[..., Any]
) -> None:
    process = start(table, tmp_path / "out", "--workers", 1)
    wait_for_blocks(process, tmp_path / "out", 1)
    process.send_signal(number)
    begin = time.monotonic()
    _, said = process.communicate(timeout=10)
    assert time.monotonic() - begin < 5
    assert process.returncode == 75
    assert "Traceback" not in said
    assert said.endswith("what is whole is kept. Run the same command again to go on.\n")
    written_down = len(read_outcomes(tmp_path / "out"))
    assert not list((tmp_path / "out/.gather/partial").iterdir())
    assert gather(table, tmp_path / "out", *WORDS)["asked"] == 70 - written_down


def test_image__that_no_outcome_speaks_of_goes_when_its_row_fails(server: Server, tmp_path: Path) -> None:
    left_over = tmp_path / "out/0/0.jpg"
    left_over.parent.mkdir(parents=True)
    left_over.write_bytes(b"half an image")
    gather(write_table(tmp_path / "t.tsv", [server.url("missing/left")]), tmp_path / "out", *HERE)
    assert not left_over.exists()


def test_folder__serves_one_process_at_a_time(table: Path, tmp_path: Path, start: Callable[..., Any]) -> None:
    process = start(table, tmp_path / "out")
    wait_for_blocks(process, tmp_path / "out", 1)
    result = run(table, tmp_path / "out", *WORDS)
    assert result.exit_code == 1
    assert "is in use" in result.stderr
