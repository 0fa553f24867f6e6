"""What is printed from data: no caption, name or path gives a terminal an order."""

import contextlib
import json
import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import cli
from data_schemas.errors import ProtoRKDError
from pipeline.log import log, show_log
from pipeline.terminal import echo, printable, printable_line
from tests.system.test_imports import MODULES

COPIED = "\x1b]52;c;cm0gLXJmIH4=\x07"  # lets a terminal put a command on the clipboard
HOSTILE = [COPIED, "\x1b[2J", "\x9b31m", "\r", "\x00", "\x7f", "\u202e", "\u2066", "\u200f", "\u2028", "\udc80"]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_printable__writes_out_what_a_terminal_obeys(text: str) -> None:
    written = printable(f"a red {text} circle")
    assert written.isprintable()
    assert all(f"\\u{ord(letter):04x}" in written for letter in text if not letter.isprintable())


@pytest.mark.parametrize("text", ["", "a red circle", "ein grünes Quadrat\t円", "\N{WOMAN}\u200d\N{PERSONAL COMPUTER}"])
def test_printable__leaves_words_and_lines_alone(text: str) -> None:
    assert printable(text) == text


def test_printable_line__is_one_line() -> None:
    assert printable_line("a.jpg\nError: none\tb\r\n") == r"a.jpg\u000aError: none\u0009b\u000d\u000a"


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_echo__keeps_json_the_same_json(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    echo(json.dumps({"caption": text}, ensure_ascii=False))
    printed = capsys.readouterr().out
    assert printed.removesuffix("\n").isprintable()
    assert json.loads(printed) == {"caption": text}


def test_echo__says_so_where_stdout_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.suppress(OSError), Path("/dev/full").open("w") as full:  # closing it fails as well
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(ProtoRKDError, match=r"^stdout must take what is printed; got No space left on device\."):
            echo("a red circle")
        monkeypatch.undo()


def test_log__writes_out_what_a_terminal_obeys(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", log.propagate)
    level = log.level
    show_log()
    log.info("read %s", COPIED)
    logging.getLogger("protorkd.child").info(COPIED)
    log.setLevel(level)
    assert capsys.readouterr().err == f"read {printable(COPIED)}\n{printable(COPIED)}\n"


def test_error__writes_out_what_a_terminal_obeys() -> None:
    result = CliRunner().invoke(cli, ["encode-teacher", "--manifest", f"/none/{COPIED}.tsv", "--teacher", "a"])
    assert result.exit_code == 1
    assert printable(COPIED) in result.stderr
    assert "\x1b" not in result.output


def test_usage_error__writes_out_what_a_terminal_obeys() -> None:
    result = CliRunner().invoke(cli, ["distill", "--epochs", COPIED])
    assert result.exit_code == 2
    assert "\x1b" not in result.output


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"pipeline.terminal"}))
def test_module__prints_through_echo(module: str) -> None:
    source = MODULES[module].read_text(encoding="utf-8")
    for call in ("click.echo(", "click.secho(", " print(", "sys.stdout.write(", "sys.stderr.write("):
        assert call not in source, f"{module} must print by pipeline.terminal.echo; got {call[:-1].strip()}"
