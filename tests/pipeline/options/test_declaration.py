from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from data_schemas.errors import ProtoRKDError
from pipeline.fingerprint import canonical_json
from pipeline.options.declaration import FRACTION, NOT_NEGATIVE, POSITIVE, check_options, click_options, option, take


@dataclass(frozen=True)
class Options:
    manifest: Path = option(help="A file.")
    lr: float = option(1, help="Rate.", check=POSITIVE)
    decay: float = option(0.0, help="Decay.", check=NOT_NEGATIVE)
    warmup_steps: int = option(200, help="Steps.", check=NOT_NEGATIVE)
    share: float = option(0.5, help="Share.", check=FRACTION)
    flip: bool = option(True, help="Turn images round.")
    loss: tuple[str, ...] = option(("simreg=1",), help="Objectives.", metavar="NAME=WEIGHT")
    sets: tuple[Path, ...] = option((), help="Folders.", flag="set")
    precision: str = option("auto", help="Numbers.", choices=("auto", "fp32"))
    prompt: str | None = option(None, help="Before each caption.")
    limit: int | None = option(None, help="At most.", check=POSITIVE)


def run(*words):
    """Parse a command line; return the click result and the dataclass."""
    taken = []
    command = click.Command(
        "toy", params=click_options(Options), callback=lambda **values: taken.append(take(Options, values))
    )
    result = CliRunner().invoke(command, words, terminal_width=200)
    return result, taken[0] if taken else None


def parse(*words):
    result, options = run("--manifest", "a.tsv", *words)
    assert result.exit_code == 0, (result.output, result.exception)
    return options


def refused(*words):
    result, options = run("--manifest", "a.tsv", *words)
    assert options is None
    assert isinstance(result.exception, ProtoRKDError)
    return str(result.exception)


def test_options__are_the_defaults_where_nothing_is_said():
    assert parse() == Options(manifest=Path("a.tsv"))


def test_options__come_from_the_command_line():
    words = "--lr 0.1 --warmup-steps 5 --no-flip --loss a=1 --loss b=2 --set x --set y --precision fp32 --limit 3"
    assert parse(*words.split(), "--prompt", "a b") == Options(
        manifest=Path("a.tsv"),
        lr=0.1,
        warmup_steps=5,
        flip=False,
        loss=("a=1", "b=2"),
        sets=(Path("x"), Path("y")),
        precision="fp32",
        prompt="a b",
        limit=3,
    )


def test_options__give_one_number_one_fingerprint():
    forms = {canonical_json(parse("--lr", text).lr) for text in ("1", "1.0", "1e0", "+1", "01.")}
    assert forms == {canonical_json(parse().lr)} == {b"1.0"}  # the default is written as the integer 1
    assert canonical_json(parse("--decay", "-0").decay) == canonical_json(parse().decay)


def test_options__are_in_the_help_with_default_and_choices():
    text = run("--help")[0].output
    assert "--manifest PATH" in text
    assert "[required]" in text
    assert "--warmup-steps INTEGER" in text
    assert "Steps.  [default: 200]" in text
    assert "--flip / --no-flip" in text
    assert "--loss NAME=WEIGHT" in text
    assert "[default: simreg=1]" in text
    assert "--set PATH" in text
    assert "--precision [auto|fp32]" in text
    assert "None" not in text


@pytest.mark.parametrize(
    "words", [["--lr", "fast"], ["--precision", "fp8"], ["--warmup-steps", "1.5"], ["--warm", "1"], ["--limit", ""]]
)
def test_options__that_cannot_be_read_are_a_usage_error(words):
    assert run("--manifest", "a.tsv", *words)[0].exit_code == 2


def test_options__that_are_required_are_asked_for():
    result, _ = run()
    assert result.exit_code == 2
    assert "Missing option '--manifest'" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr", "0"], "--lr must be above 0; got 0.0."),
        (["--lr", "nan"], "--lr must be above 0; got nan."),
        (["--warmup-steps", "-1"], "--warmup-steps must be 0 or more; got -1."),
        (["--share", "1.5"], "--share must lie between 0 and 1; got 1.5."),
        (["--limit", "0"], "--limit must be above 0; got 0."),
    ],
)
def test_options__that_break_their_rule_are_named(words, message):
    assert refused(*words) == message


def test_check_options__knows_the_choices_without_the_command_line():
    with pytest.raises(ProtoRKDError, match=r"--precision must be one of auto, fp32; got fp8\."):
        check_options(Options(manifest=Path("a"), precision="fp8"))
