"""The command line as a whole: help, option names and exit statuses, for every command there is."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from cli import cli
from pipeline.commands.stages import stage_command
from pipeline.options.declaration import click_options
from pipeline.stage import AnyStage
from stages import STAGES

ROOT = Path(__file__).parents[2]
DONE, USER_ERROR, USAGE = 0, 1, 2


def walk(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from walk(child, (*words, name))


COMMANDS = dict(walk(cli))
every_command = pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "protorkd")
every_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


def run(*words: object, width: int | None = None) -> Result:
    arguments = [str(word) for word in words]
    return CliRunner().invoke(cli, arguments, catch_exceptions=False, terminal_width=width)


def options_of(command: click.Command) -> list[click.Option]:
    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


@every_command
def test_help__lists_every_option_with_what_it_means(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]
    result = run(*words, "--help", width=10_000)
    assert result.exit_code == DONE
    shown = " ".join(result.stdout.split())
    for option in options_of(command):
        names, meaning = option.get_help_record(click.Context(command)) or ("hidden", "")
        assert " ".join(f"{names} {meaning}".split()) in shown
        assert option.help is not None, names
        assert option.help.endswith("."), names


@every_command
def test_help__says_what_the_command_is_for(words: tuple[str, ...]) -> None:
    summary = (COMMANDS[words].help or "").partition("\n")[0]
    assert summary.endswith((".", ":"))
    assert summary in run(*words, "--help", width=10_000).stdout


@every_command
def test_help__fits_a_terminal_of_80_columns(words: tuple[str, ...]) -> None:
    assert max(map(len, run(*words, "--help", width=80).stdout.splitlines())) <= 80


@every_stage
def test_stage__has_an_option_with_help_for_every_field(stage: AnyStage) -> None:
    for kind in (stage.inputs, stage.params, stage.runtime):
        for option in click_options(kind):
            assert option.help is not None
            assert option.help.endswith("."), f"{kind.__name__}.{option.name}"
            assert option.help[0].isupper(), f"{kind.__name__}.{option.name}"


@every_stage
def test_stage__uses_each_option_name_once(stage: AnyStage) -> None:
    options = options_of(stage_command(stage))
    names = [name for option in options for name in (*option.opts, *option.secondary_opts)]
    fields = [option.name for option in options]
    assert len(names) == len(set(names))
    assert len(fields) == len(set(fields))


def test_cli__has_two_commands_for_every_stage() -> None:
    names = {stage.name for stage in STAGES}
    assert names <= {words[0] for words in COMMANDS if len(words) == 1}
    assert names == {words[1] for words in COMMANDS if len(words) == 2 and words[0] == "why"}


def test_exit_status__is_0_when_done(tmp_path: Path) -> None:
    assert run("status", "--store", tmp_path).exit_code == DONE
    assert run("verify", "--store", tmp_path).exit_code == DONE


def test_exit_status__is_1_and_one_line_where_an_input_is_missing(tmp_path: Path) -> None:
    absent = tmp_path / "absent.tsv"
    result = run("encode-teacher", "--store", tmp_path, "--manifest", absent, "--teacher", "any")
    assert result.exit_code == USER_ERROR
    assert result.stderr == f"Error: --manifest must name a file; got {absent}.\n"
    assert result.stdout == ""


def test_exit_status__is_1_where_a_value_breaks_its_rule(tmp_path: Path) -> None:
    result = run("distill", "--store", tmp_path, "--epochs", "0")
    assert result.exit_code == USER_ERROR
    assert result.stderr == "Error: --epochs must be above 0; got 0.\n"


@pytest.mark.parametrize(
    "words",
    [
        ("no-such-command",),
        ("status", "--no-such-option"),
        ("encode-teacher", "--teacher", "any"),
        ("distill", "--epochs", "many"),
        ("distill", "--precision", "fp12"),
    ],
    ids=["command", "option", "required", "type", "choice"],
)
def test_exit_status__is_2_where_the_words_are_not_understood(words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.exit_code == USAGE
    assert result.stderr.startswith("Usage: ")
    assert result.stdout == ""


def test_process__ends_a_user_error_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "cli.py", "distill", "--store", str(tmp_path)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == USER_ERROR
    assert finished.stderr.startswith("Error: ")
    assert "Traceback" not in finished.stderr
    assert finished.stdout == ""
