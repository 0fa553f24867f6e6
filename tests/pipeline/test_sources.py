from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from toy_stage import ToyParams, ToyRuntime

from pipeline.difference import nearest
from pipeline.fingerprint import fingerprint
from pipeline.plan import settle
from pipeline.runner import context_of, run_stage
from pipeline.sources import hashed_as, hashed_inputs
from pipeline.stage import Input, Result, Stage


@dataclass(frozen=True)
class Sources:
    captions: Input[str]
    images: Input[None] = field(metadata=hashed_as("pictures"))
    sets: Mapping[str, Input[int]]
    prototypes: Input[None] | None
    training: Input[None] | None = field(metadata=hashed_as("training pictures"))


def identified(name, value=None):
    return Input(name * 64, f"/{name}", value=value)


def sources(**changes):
    values = {
        "captions": identified("1", "words"),
        "images": identified("2"),
        "sets": {"retrieval b": identified("3", 3), "classes a": identified("4", 4)},
        "prototypes": identified("5"),
        "training": identified("6"),
    }
    return Sources(**(values | changes))


def test_hashed_inputs__stand_under_field_names_or_the_keys_that_are_declared_in_their_order():
    found = hashed_inputs(sources())
    assert list(found) == ["captions", "pictures", "retrieval b", "classes a", "prototypes", "training pictures"]
    assert [entry.digest[0] for entry in found.values()] == ["1", "2", "3", "4", "5", "6"]
    assert found["captions"].value == "words"


def test_hashed_inputs__leave_out_none_and_what_an_empty_mapping_lacks():
    found = hashed_inputs(sources(prototypes=None, training=None, sets={}))
    assert list(found) == ["captions", "pictures"]


def test_hashed_inputs__of_nothing_are_empty():
    @dataclass(frozen=True)
    class Nothing:
        pass

    assert hashed_inputs(Nothing()) == {}


@pytest.mark.parametrize("key", ["captions", "pictures"])
def test_hashed_inputs__refuse_two_inputs_under_one_key(key):
    with pytest.raises(AssertionError, match="Sources has two inputs under one key"):
        hashed_inputs(sources(sets={key: identified("7", 7)}))


@dataclass(frozen=True)
class Where:
    training: str = ""


def write_nothing(params, sources, out, runtime, context):
    (out.path / "seen.txt").write_text(f"{sources.captions.value} {sources.sets['classes a'].value}")
    return Result(counts={})


STAGE = Stage(
    name="sourced",
    version=1,
    summary="Write what it sees.",
    params=ToyParams,
    inputs=Where,
    runtime=ToyRuntime,
    identify=lambda inputs, params, context: sources(
        prototypes=None, training=identified(inputs.training) if inputs.training else None
    ),
    run=write_nothing,
)


def test_settle__hashes_sources_under_their_keys_and_hands_on_the_dataclass(toy):
    asked = settle(STAGE, params=ToyParams(), inputs=Where(), runtime=ToyRuntime(), context=context_of(toy.store))
    digests = {"captions": "1" * 64, "pictures": "2" * 64, "retrieval b": "3" * 64, "classes a": "4" * 64}
    assert asked.fingerprint == fingerprint("sourced", 1, ToyParams(), digests)
    assert asked.fingerprint == "be48075e9ae196f611ed0c329d5a4b12"
    assert asked.sources == sources(prototypes=None, training=None)
    assert asked.inputs == hashed_inputs(asked.sources)


def test_run_stage__records_sources_under_their_keys_and_runs_on_the_dataclass(toy):
    options = {"params": ToyParams(), "inputs": Where(training="6"), "runtime": ToyRuntime()}
    artifact = run_stage(STAGE, **options, context=context_of(toy.store)).artifact
    assert (artifact.path / "seen.txt").read_text() == "words 4"
    assert artifact.record.inputs.keys() == {"captions", "pictures", "retrieval b", "classes a", "training pictures"}
    assert artifact.record.inputs["training pictures"].location == "/6"
    asked = settle(STAGE, **(options | {"inputs": Where(training="8")}), context=context_of(toy.store))
    _, [difference] = nearest([artifact.record], version=1, params=asked.params, inputs=asked.inputs)
    assert str(difference) == f"training pictures (/8): {'6' * 12} -> {'8' * 12}"
