"""run: several stages over several combinations; what all share is done once, what fails fails alone."""

import json
import signal
from dataclasses import replace

import pytest
from click.testing import CliRunner
from toy_stage import CHILD, TOY, run_toy

from data_schemas.errors import ProtoRKDError, StopRequestedError
from pipeline.commands.run import run
from pipeline.results.figure import Figure
from pipeline.signals import command_signals, stop_requests
from pipeline.stage import Overview

pytestmark = pytest.mark.usefixtures("quiet_log")


def fail_on_bad_words(params, sources, out, runtime, context):
    if params.word == "bad":
        raise ProtoRKDError("word must be good; got bad.")
    if params.word == "stop":
        raise StopRequestedError("toy was asked to stop and did.")
    if (params.word or "").startswith("late"):
        with stop_requests():
            signal.raise_signal(int(params.word.split()[1]))
    return run_toy(params, sources, out, runtime, context)


STAGES = (replace(TOY, run=fail_on_bad_words), CHILD)


@pytest.fixture
def call(toy, tmp_path):
    """Run a file of toy and child, with lines of its own; return the click result."""

    def call(text, *words, stages=STAGES):
        path = tmp_path / "run.toml"
        path.write_text(f"store = '{toy.store.root}'\n[toy]\nsource = '{toy.source}'\n[child]\n{text}")
        return CliRunner().invoke(run, [str(path), *words], obj=stages)

    return call


@pytest.fixture
def lines(call):
    """Run a file with --json; return its JSON objects."""

    def lines(text, *words):
        result = call(text, "--json", *words)
        return [json.loads(line) for line in result.stdout.splitlines()], result.exception

    return lines


SWEEP = "[sweep.toy]\nword = ['a', 'b']\n[sweep.child]\n"


def test_run__runs_each_stage_and_passes_its_artifact_on(toy, lines):
    older, _ = toy.run(word="other"), toy.run(word="newest")
    printed, error = lines("")
    assert error is None
    assert [(line["step"], line["status"]) for line in printed[:-1]] == [("toy", "created"), ("child", "created")]
    [child] = toy.store.artifacts("child")
    assert child.record.inputs["toy"].digest == printed[0]["digest"] != older.artifact.record.digest
    assert child.record.request.inputs == {"toy": printed[0]["fingerprint"]}
    assert printed[-1]["status"] == "done"
    assert printed[-1]["combinations"][0]["metrics"] == {"score": 50.0}


def test_run__takes_its_own_artifact_though_another_is_newer(toy, lines):
    lines("")
    toy.run(word="newer")
    found, _ = lines("")
    assert [line["status"] for line in found] == ["unchanged", "unchanged", "done"]


def test_run__shares_what_combinations_share(toy, lines):
    text = "[sweep.toy]\nword = ['a', 'b']\npause-s = [0.0, 0.001]\n"
    printed, _ = lines(text)
    assert [line["status"] for line in printed[:-1]] == ["created", "created", "unchanged", "unchanged"] * 2
    assert len(toy.store.artifacts("toy")) == 2
    assert printed[-1]["combinations"][0]["swept"] == {"toy.word": "a", "toy.pause-s": 0.0}
    names = [each.path.name for each in toy.store.artifacts("toy")]
    printed, _ = lines(f"[sweep.child]\ntoy = {names}\n")
    assert [line["step"] for line in printed[:-1]] == ["toy", "child", "child"]


def test_run__goes_on_where_a_combination_fails(toy, call, lines):
    text = "[sweep.toy]\nword = ['a', 'bad', 'b']\n"
    printed, error = lines(text)
    pairs = [(line["step"], line["status"]) for line in printed[:-1]]
    created, failed = [[("toy", status), ("child", status)] for status in ("created", "failed")]
    assert pairs == [*created, *failed, *created]
    assert printed[3]["reason"] == "toy word=bad failed"
    assert [each["status"] for each in printed[-1]["combinations"]] == ["done", "failed", "done"]
    assert str(error) == ("1 of 3 combinations must be run again, once this is mended: word must be good; got bad.")
    rows = [line.split() for line in call(text).stdout.splitlines()]
    names = [child.record.fingerprint[:12] for child in toy.store.artifacts("child")]
    assert rows[0] == ["fingerprint", "toy.word", "score", "seconds", "status"]
    assert [row[1:3] + row[4:] for row in (rows[1], rows[3])] == [["a", "50.00", "done"], ["b", "50.00", "done"]]
    assert rows[2] == ["bad", "failed"]
    assert sorted(names) == sorted([rows[1][0], rows[3][0]])


def test_run__begins_nothing_more_once_it_is_asked_to_stop(toy, call):
    result = call("[sweep.toy]\nword = ['a', 'stop', 'b']\n")
    assert isinstance(result.exception, StopRequestedError)
    assert len(toy.store.artifacts("toy")) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run__begins_nothing_more_where_a_stage_ends_well_after_a_stop_was_asked_for(toy, call, number):
    with command_signals():
        result = call(f"[sweep.toy]\nword = ['a', 'late {int(number)}', 'b']\n")
    assert isinstance(result.exception, StopRequestedError)
    assert "Asked to stop, and did, before child began. Run the same command again" in str(result.exception)
    assert len(toy.store.artifacts("toy")) == 2  # its own is whole, and kept
    assert len(toy.store.artifacts("child")) == 1


def test_run__prints_its_plan_first(call, toy):
    plan = [line for line in call(SWEEP).stderr.splitlines() if line.startswith("plan: ")]
    assert plan[0].startswith("plan: toy word=a: would run as ")
    assert plan[0].endswith(": nothing like it in the store")
    assert plan[1] == "plan: child toy.word=a: would run: its toy runs first"
    toy.store.remove(toy.store.artifacts("child")[0].path)
    plan = [line for line in call(SWEEP).stderr.splitlines() if line.startswith("plan: ")]
    assert [line.partition(": ")[2].partition(": ")[2][:9] for line in plan] == [
        "unchanged",
        "would run",
        "unchanged",
        "unchanged",
    ]


def test_run__says_nothing_when_quiet(call):
    result = call("", "--quiet")
    assert (result.stdout, result.stderr, result.exit_code) == ("", "", 0)


def test_run__dry_run_writes_nothing(toy, call, lines):
    text = call("", "--dry-run").stdout
    assert "toy would run as " in text
    assert "child would run: its toy runs first" in text
    assert not toy.store.root.exists()
    call("")
    before = sorted(toy.store.root.rglob("*"))
    [answer], _ = lines("[sweep.toy]\nword = ['a', 'b']\n", "--dry-run")
    assert [each["would_run"] for each in answer["stages"]] == [True, True, True, True]
    [answer], _ = lines("", "--dry-run")
    assert [each["would_run"] for each in answer["stages"]] == [False, False]
    assert sorted(toy.store.root.rglob("*")) == before
    toy.source.unlink()
    assert isinstance(call("", "--dry-run").exception, ProtoRKDError)


def test_run__refuses_a_missing_option_before_anything_runs(toy, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(f"store = '{toy.store.root}'\n[toy]\n")
    result = CliRunner().invoke(run, [str(path)], obj=STAGES)
    assert str(result.exception) == "[toy] must give source, which toy cannot do without."


def test_run__takes_the_store_of_the_command_line_before_that_of_the_file(toy, call, tmp_path):
    call("", "--store", str(tmp_path / "other"))
    assert not toy.store.root.exists()
    assert (tmp_path / "other" / "toy").is_dir()


def test_run__refuses_to_be_started_by_torchrun(call, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "run must be started as one process" in str(call("").exception)


def test_run__ends_with_the_headline_of_each_combination_and_marks_the_best(toy, call):
    def judge(artifact, read):
        digest = read("child.txt")
        return {"score": Figure(float(digest == best), low=0.0, high=1.0, better="higher", is_headline=True)}

    made = [toy.run(word=word).artifact for word in ("a", "b")]
    best = made[1].record.digest.encode()
    judged = (STAGES[0], replace(CHILD, overview=Overview(measures="toy", figures=judge)))
    lines = call("[sweep.toy]\nword = ['a', 'b']\n", stages=judged).stdout.splitlines()
    assert lines[0].split() == ["fingerprint", "toy.word", "score", "seconds", "status"]
    assert [line.split()[:6] for line in lines[1:3]] == [
        [made[0].record.fingerprint[:12], "a", "0.00", "[0.00,", "1.00]", lines[1].split()[5]],
        [made[1].record.fingerprint[:12], "b", "1.00", "[0.00,", "1.00]", "*"],
    ]


def test_dry_run__prices_the_whole_sweep(toy, call, lines):
    def took(artifact, seconds):
        replace(artifact.record, seconds=seconds).write(artifact.path)

    assert call(SWEEP, "--dry-run").stdout.splitlines()[-1] == (
        "all: 4 of 4 stages would run; no earlier run tells the time of 4 of them"
    )
    took(toy.run(num_parts=3).artifact, 30.0)
    took(toy.run_child().artifact, 60.0)
    text = "[sweep.toy]\nnum-parts = [3, 6, 12]\n"
    [answer], _ = lines(text, "--dry-run")
    assert answer["total"]["seconds"] == 60.0 + 120.0 + 2 * 60.0  # by parts, and twice as the one child took
    assert (answer["total"]["num_stages"], answer["total"]["num_runs"], answer["total"]["num_untold"]) == (6, 4, 0)
    said = call(text, "--dry-run").stdout
    assert "  time: about 1 min, as " in said
    assert "took, the run that is most like it" in said
    assert said.splitlines()[-1].startswith("all: 4 of 6 stages would run, about 5 min and ")


def refuse_three_parts(params, inputs, runtime):
    if params.num_parts == 3:
        raise ProtoRKDError("--num-parts must be another number; got 3.")


def refuse(params, inputs, runtime):
    raise ProtoRKDError("a child must not be; got one.")


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_run__checks_the_options_of_all_combinations_before_the_first_begins(toy, call, words):
    checked = (replace(TOY, check=refuse_three_parts), CHILD)
    result = call("[sweep.toy]\nnum-parts = [1, 3, 2]\n", *words, stages=checked)
    assert isinstance(result.exception, ProtoRKDError)
    assert "of 6 stages would fail. The first: --num-parts must be another number; got 3." in str(result.exception)
    assert toy.store.artifacts() == []


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_run__checks_stages_whose_sources_are_not_made_yet(toy, call, words):
    result = call("", *words, stages=(TOY, replace(CHILD, check=refuse)))
    assert "1 of 2 stages would fail. The first: a child must not be; got one." in str(result.exception)
    assert toy.store.artifacts() == []


def test_run__asks_nothing_of_what_is_made(toy, call):
    assert call("").exception is None
    assert call("", stages=(replace(TOY, check=refuse_three_parts), replace(CHILD, check=refuse))).exception is None
