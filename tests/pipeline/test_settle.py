import dataclasses
import tomllib

import pytest
from toy_peers import together
from toy_stage import TOY, ToyInputs, ToyParams, ToyRuntime

from pipeline.peers import SingleProcess
from pipeline.plan import plan_stage
from pipeline.runner import context_of, run_stage, run_within
from pipeline.stage import Distributed
from pipeline.workflow.estimate import forecast


@pytest.fixture
def asked():
    """Return what the hook was given."""
    return []


@pytest.fixture
def stage(asked):
    """Return the toy, whose word is settled where none is given: by what the source says and where it runs."""

    def settle(params, inputs, sources, runtime, context):
        asked.append((params, inputs, runtime))
        word = params.word or f"{sources.source.value} {runtime.fail_after}"
        return dataclasses.replace(params, word=word)

    return dataclasses.replace(TOY, settle=settle)


def options(toy, **params):
    return {"params": ToyParams(**params), "inputs": ToyInputs(toy.source), "runtime": ToyRuntime(fail_after=7)}


def test_settle__makes_the_parameters_that_are_hashed_recorded_and_run_with(toy, stage):
    outcome = run_stage(stage, **options(toy), context=context_of(toy.store, stages=[stage]))
    record = outcome.artifact.record
    assert record.params["word"] == "words 7"
    assert (outcome.artifact.path / "parts" / "0.txt").read_text() == "0 1.0 words 7 words"
    config = tomllib.loads((outcome.artifact.path / "logs" / "config.toml").read_text())
    assert config["toy"]["word"] == "words 7"
    assert toy.run(word="words 7").artifact.record.fingerprint == record.fingerprint
    assert run_stage(stage, **options(toy), context=context_of(toy.store)).status == "unchanged"


def test_settle__is_asked_once_for_a_run(toy, stage, asked):
    run_stage(stage, **options(toy), context=context_of(toy.store))
    assert asked == [(ToyParams(), ToyInputs(toy.source), ToyRuntime(fail_after=7))]


def test_settle__holds_for_plans_and_forecasts(toy, stage):
    toy.run(word="words 7", scale=2.0)
    toy.run(scale=1.5)
    plan = plan_stage(stage, **options(toy), context=context_of(toy.store))
    assert [each.field for each in plan.differences] == ["--scale"]  # and no word, which is None in what was asked
    found = forecast(stage, **options(toy), store=toy.store, stages=[stage])
    assert found.plan.fingerprint == plan.fingerprint
    assert found.gone_by.params["scale"] == 2.0  # whose word is the same, and which the pace depends on
    made = run_stage(stage, **options(toy), context=context_of(toy.store))
    assert made.artifact.record.fingerprint == plan.fingerprint


def test_settle__is_done_in_every_process_that_has_met(toy, stage, asked):
    def run(params, sources, out, runtime, context):
        words = context.peers.gather_objects(params.word)
        return dataclasses.replace(TOY.run(params, sources, out, runtime, context), counts={"words": words})

    shared = dataclasses.replace(stage, distributed=Distributed(SingleProcess, fails_together=True), run=run)

    def work(peers):
        context = dataclasses.replace(context_of(toy.store), peers=peers)
        return run_within(shared, **options(toy), context=context)

    outcomes = together(2, work)
    assert not [each for each in outcomes if isinstance(each, Exception)]
    assert [outcome.artifact.record.counts for outcome in outcomes] == [{"words": ["words 7"] * 2}] * 2
    assert len(asked) == 2
