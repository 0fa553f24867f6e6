"""Presets: what the user gives counts for more, from the command line, Python, a file and a run of several stages."""

import dataclasses
import json
import tomllib

import pytest
from click.testing import CliRunner
from toy_stage import NoOptions

from data_schemas.errors import ProtoRKDError
from pipeline.commands.stages import stage_command
from pipeline.options.declaration import option
from pipeline.options.presets import Preset, Presets
from pipeline.options.values import build
from pipeline.python_api import stage_function
from pipeline.stage import Input, Result, Stage


@dataclasses.dataclass(frozen=True)
class Params:
    width: int = option(1, help="A width.")
    depth: int = option(1, help="A depth.")


@dataclasses.dataclass(frozen=True)
class Inputs:
    source: str | None = option(None, help="A source.")


@dataclasses.dataclass(frozen=True)
class Runtime:
    preset: str = option("", help="A preset.")


@dataclasses.dataclass(frozen=True)
class Sources:
    source: Input[str]


def fit(values, given):
    return {name: value for name, value in values.items() if name not in given}


PRESETS = Presets(
    "preset",
    {"wide": Preset("Wide ones.", {"width": 100}), "both": Preset("Both.", {"width": 10, "depth": 20})},
    choose=lambda given: "wide" if given.get("source") is not None else "",
    fit=fit,
)


def run(params, sources, out, runtime, context):
    (out.path / "made.json").write_text(json.dumps(dataclasses.asdict(params)))
    return Result(counts=dataclasses.asdict(params))


STAGE = Stage(
    "shapes", 1, "Make shapes.", Params, Inputs, Runtime,
    identify=lambda inputs, params, context: Sources(Input(str(inputs.source), value="")),
    run=run, presets=PRESETS,
)  # fmt: skip


@pytest.fixture
def made(tmp_path):
    def made(*words):
        outcome = CliRunner().invoke(stage_command(STAGE), [*words, "--store", str(tmp_path / "store"), "--json"])
        assert outcome.exit_code == 0, outcome.output
        counts = json.loads(outcome.stdout)["counts"]
        return counts["width"], counts["depth"]

    return made


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), (1, 1)),
        (("--preset", "both"), (10, 20)),
        (("--preset", "both", "--depth", "1"), (10, 1)),  # also where it is the default
        (("--source", "x"), (100, 1)),
        (("--source", "x", "--preset", "both", "--width", "3"), (3, 20)),
    ],
)
def test_presets__fill_what_the_command_line_leaves_out(words, expected, made):
    assert made(*words) == expected


def test_presets__count_less_than_a_file(made, tmp_path):
    (tmp_path / "some.toml").write_text('preset = "both"\nwidth = 1\n')
    assert made("--config", str(tmp_path / "some.toml")) == (1, 20)


def test_presets__fill_what_python_leaves_out(tmp_path):
    shapes = stage_function(STAGE, stages=())
    assert shapes(store=tmp_path, preset="both", width=2).counts == {"width": 2, "depth": 20}
    assert shapes(store=tmp_path, source="x").counts == {"width": 100, "depth": 1}


def test_presets__fill_what_a_step_of_a_run_leaves_out():
    options = build(STAGE, {"source": "", "depth": 4}, place="run.toml")  # the source of a step not made yet
    assert options["params"] == Params(width=100, depth=4)
    assert options["runtime"] == Runtime(preset="wide")


def test_presets__are_resolved_in_what_show_config_prints(made, tmp_path):
    words = ["--preset", "both", "--width", "7", "--show-config"]
    text = CliRunner().invoke(stage_command(STAGE), [*words, "--store", str(tmp_path / "store")]).stdout
    assert "width = 7  # command line" in text
    assert "depth = 20  # preset both" in text
    (tmp_path / "again.toml").write_text(text)
    assert made("--config", str(tmp_path / "again.toml")) == (7, 20)
    assert tomllib.loads(text)["shapes"]["preset"] == "both"


def test_presets__refuse_an_unknown_name():
    with pytest.raises(ProtoRKDError, match="--preset must be one of wide, both; got round"):
        PRESETS.fill({"preset": "round"})


def test_presets__are_not_hashed_by_name(tmp_path):
    shapes = stage_function(STAGE, stages=())
    named, spelt = shapes(store=tmp_path, preset="both"), shapes(store=tmp_path, width=10, depth=20)
    assert (named.fingerprint, spelt.status) == (spelt.fingerprint, "unchanged")


def test_stage__without_presets_has_its_defaults():
    plain = dataclasses.replace(STAGE, presets=None, runtime=NoOptions)
    assert build(plain, {"source": "x"}, place="here")["params"] == Params()
