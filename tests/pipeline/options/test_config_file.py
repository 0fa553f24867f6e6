"""Options from files: what is read, what is refused, what counts for more, and that what is printed reads the same."""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from toy_stage import CHILD, TOY, NoOptions

from data_schemas.errors import ProtoRKDError
from pipeline.commands.stages import stage_command, why_command
from pipeline.options.config_file import config_text, read_file, stage_values
from pipeline.options.declaration import POSITIVE, option
from pipeline.stage import Stage

STAGES = (TOY, CHILD)


@dataclass(frozen=True)
class EveryKind:
    folder: Path = option(Path("here"), help="A folder.")
    rate: float = option(0.5, help="A rate.", check=POSITIVE)
    num_steps: int = option(3, help="Steps.", check=POSITIVE)
    fast: bool = option(False, help="Whether.")
    word: str = option("a", help="A word.")
    mode: str = option("auto", help="A mode.", choices=("auto", "no"))
    loss: tuple[str, ...] = option(("a=1",), help="Losses.")
    limit: int | None = option(None, help="At most.")


KINDS = Stage("kinds", 1, "Take all kinds.", EveryKind, NoOptions, NoOptions, lambda *_: NoOptions(), lambda *_: None)


@pytest.fixture
def write(tmp_path):
    def write(text, name="options.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def read(write):
    return lambda text, name="options.toml": stage_values(write(text, name), KINDS, stages=STAGES)


@pytest.fixture
def refused(read):
    def refused(text, name="options.toml"):
        with pytest.raises(ProtoRKDError) as caught:
            read(text, name)
        return str(caught.value)

    return refused


ALL = {
    "folder": Path("x/y"),
    "rate": 1.0,
    "num_steps": 7,
    "fast": True,
    "word": "5",
    "mode": "no",
    "loss": ("b=1", "c=2"),
    "limit": 9,
}


def test_config__reads_toml_with_dashes_or_underscores(read):
    text = 'folder="x/y"\nrate=1\nnum-steps=7\nfast=true\nword="5"\nmode="no"\nloss=["b=1","c=2"]\nlimit=9\n'
    assert read(text) == read(text.replace("-", "_")) == ALL
    assert isinstance(read(text)["rate"], float)


def test_config__reads_the_same_from_yaml(read):
    text = "folder: x/y\nrate: 1e0\nnum-steps: 7\nfast: true\nword: '5'\nmode: 'no'\nloss: [b=1, c=2]\nlimit: 9\n"
    assert read(text, "options.yaml") == ALL
    assert read("rate: 5e-4", "options.yml") == {"rate": 5e-4}  # which YAML 1.1 takes for text
    assert read("limit: null", "options.yaml") == {"limit": None}
    assert read("", "options.yaml") == {}


def test_config__takes_one_value_for_a_list_of_one(read):
    assert read('loss = "b=1"') == {"loss": ("b=1",)}
    assert read("loss = []") == {"loss": ()}


def test_config__has_a_table_for_each_stage(read):
    text = 'store = "there"\n[toy]\nscale = 2\n[kinds]\nrate = 2.0\n'
    assert read(text) == {"store": Path("there"), "rate": 2.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rat = 1", "must name an option of kinds; got 'rat'. Did you mean 'rate'?"),
        ("num-step = 1", "got 'num-step'. Did you mean 'num-steps'?"),
        ("zzz = 1", "got 'zzz'. Known: folder, rate, num_steps"),
        ("[kind]\nrate = 1", "must name a stage by its tables; got 'kind'. Did you mean 'kinds'?"),
        ("[toy]\nscal = 1\n[kinds]\nrate = 1", "[toy] must name an option of toy; got 'scal'. Did you mean 'scale'?"),
        ("[toy]\nscale = 1.0", "must have a table [kinds]; got toy."),
        ("word = 'a'\n[toy]\nscale = 1.0", "got word outside the tables toy"),
        ("store = 3", "store in {path} must be a path, as text; got 3."),
        ("fast = 'true'", "fast in {path} must be true or false; got 'true'. Write it without quotes."),
        ("fast = 1", "fast in {path} must be true or false; got 1."),
        ("rate = '1'", "rate in {path} must be a number; got '1'."),
        ("rate = true", "rate in {path} must be a number; got True."),
        ("num-steps = 1.5", "num-steps in {path} must be a whole number; got 1.5."),
        ("num-steps = true", "must be a whole number; got True."),
        ("word = 5", "word in {path} must be text; got 5. Put it in quotes."),
        ("loss = [1]", "loss in {path} must be text; got 1."),
        ("folder = 1", "must be a path, as text; got 1."),
        ("rate = 0", "rate in {path} must be above 0; got 0.0."),
        ("rate = inf", "rate in {path} must be a finite number; got inf."),
        ("mode = 'yes'", "mode in {path} must be one of auto, no; got yes."),
        ("num-steps = 1\nnum_steps = 2", "must give each option once; got num_steps twice."),
        ("rate = 1\nrate = 2", "must be TOML"),
        ("rate", "must be TOML"),
    ],
)
def test_config__refuses_what_it_does_not_know(refused, tmp_path, text, message):
    assert message.format(path=tmp_path / "options.toml") in refused(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate: 1\nrate: 2", "'rate' is given twice"),
        ("- rate", "must hold options by name"),
        ("1: rate", "must name options by text; got 1."),
        ("mode: no", "must be text; got False. Put it in quotes."),
        ("rate: [", "must be YAML"),
        ("word: !!python/object:os.system {}", "must be YAML"),
    ],
)
def test_config__refuses_yaml_that_says_something_else(refused, text, message):
    assert message in refused(text, "options.yaml")


def test_config__names_a_file_that_cannot_be_read(tmp_path, refused):
    with pytest.raises(ProtoRKDError, match="must be a readable file"):
        read_file(tmp_path / "absent.toml")
    assert "must be a .toml, .yaml or .yml file" in refused("{}", "options.json")


@pytest.fixture
def call(tmp_path, toy):
    def call(*words, command=TOY, make=stage_command, env=None):
        result = CliRunner().invoke(make(command), [str(word) for word in words], obj=STAGES, env=env)
        if isinstance(result.exception, ProtoRKDError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return call


def test_flags__count_for_more_than_the_file_and_the_file_for_more_than_the_rest(write, toy, call, tmp_path):
    text = f"[toy]\nsource = '{toy.source}'\nscale = 2.0\nnum-parts = 5\n"
    config = write(f"store = '{toy.store.root}'\n{text}")
    shown = call("--config", config, "--scale", 3, "--show-config", env={"PROTORKD_STORE": str(tmp_path / "env")})
    lines = {line.partition(" ")[0]: line for line in shown.splitlines()}
    assert lines["store"] == f'store = "{toy.store.root}"  # file'
    assert lines["scale"] == "scale = 3.0  # command line"
    assert lines["num-parts"] == "num-parts = 5  # file"
    assert lines["pause-s"] == "pause-s = 0.0  # default"
    assert "# word is not given" in shown
    config = write(text)
    shown = call("--config", config, "--show-config", env={"PROTORKD_STORE": str(tmp_path / "env")})
    assert f'store = "{tmp_path / "env"}"  # environment' in shown


def test_show_config__runs_nothing_and_reads_the_same_again(write, toy, call):
    words = ("--source", toy.source, "--scale", "2", "--word", 'a "quoted" \\ wörd\x7f', "--store", toy.store.root)
    shown = call(*words, "--show-config")
    assert toy.store.artifacts() == []
    assert tomllib.loads(shown)["toy"]["scale"] == 2.0
    path = write(shown)
    again = call("--config", path, "--show-config")
    assert tomllib.loads(again) == tomllib.loads(shown)
    call("--config", path, "--json")
    assert json.loads(call(*words, "--json").splitlines()[-1])["status"] == "unchanged"


def test_config_text__reads_back_as_every_kind_of_option(read):
    options = {"params": EveryKind(**ALL), "inputs": NoOptions(), "runtime": NoOptions()}
    assert read(config_text(KINDS, options)) == ALL
    options["params"] = EveryKind()
    assert "limit" not in read(config_text(KINDS, options))


def test_artifact__keeps_its_configuration_beside_its_digest(toy, call, write):
    call("--source", toy.source, "--pause-s", "0.01", "--store", toy.store.root)
    [artifact] = toy.store.artifacts()
    kept = artifact.path / "logs" / "config.toml"
    assert tomllib.loads(kept.read_text())["toy"] == {
        "source": str(toy.source), "scale": 1.0, "num-parts": 3, "pause-s": 0.01, "fail-after": -1,
    }  # fmt: skip
    assert "logs/config.toml" not in [file.path for file in artifact.record.digested_files]
    assert json.loads(call("--config", kept, "--store", toy.store.root, "--json"))["status"] == "unchanged"


def test_why__takes_the_file_too(toy, call, write):
    config = write(f"store = '{toy.store.root}'\nsource = '{toy.source}'\n")
    call("--config", config)
    answer = json.loads(call("--config", config, "--scale", 2, "--json", make=why_command))
    assert answer["would_run"]
    assert answer["differences"] == [{"field": "--scale", "old": "1.0", "new": "2.0"}]
    assert not json.loads(call("--config", config, "--json", make=why_command))["would_run"]


def test_config__gives_what_is_required(toy, call, write):
    with pytest.raises(ProtoRKDError, match=r"got 'sourc'\. Did you mean 'source'\?"):
        call("--config", write(f"sourc = '{toy.source}'"))
    call("--config", write(f"source = '{toy.source}'"), "--store", toy.store.root)
