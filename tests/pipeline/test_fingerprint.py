import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from data_schemas.errors import ProtoRKDError
from data_schemas.files import FileEntry
from pipeline.fingerprint import canonical, canonical_json, digest_of_files, fingerprint


@dataclass(frozen=True)
class Params:
    lr: float = 5e-4
    loss: tuple[str, ...] = ("simreg=1",)
    prompt: str | None = None
    flip: bool = True
    more: dict[str, int] = field(default_factory=dict)


def test_canonical_json__is_sorted_dense_and_utf_8():
    assert canonical_json({"b": (1, 2.5), "a": "Zürich", "c": None}) == '{"a":"Zürich","b":[1,2.5],"c":null}'.encode()


def test_canonical__makes_a_dataclass_a_mapping_of_all_its_fields():
    assert canonical(Params()) == {"lr": 5e-4, "loss": ["simreg=1"], "prompt": None, "flip": True, "more": {}}


def test_canonical__keeps_flags_numbers_and_text_apart():
    assert len({canonical_json(value) for value in (1, 1.0, True, "1", [1], None)}) == 6


def test_canonical__gives_one_form_to_both_zeros():
    assert canonical_json(-0.0) == canonical_json(0.0) == b"0.0"


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        Path("a"),
        {1, 2},
        b"a",
        object(),
        Params,
        {1: "a"},
        [{"a": math.nan}],
        os.fsdecode(b"\xe9"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_canonical__refuses_what_has_no_one_form(value):
    with pytest.raises(ProtoRKDError, match="A parameter must be text, a finite number"):
        canonical(value)


def test_fingerprint__is_pinned():
    inputs = {"teacher": "1" * 64, "manifest": "0" * 64}
    # printf '{"inputs":...,"params":...,"stage":"toy","version":1}' | sha256sum, the first 32 digits
    assert fingerprint("toy", 1, Params(), inputs) == "58d5be52e37b0e501a3e5085a70785b1"


def test_fingerprint__does_not_hear_the_order_of_keys():
    one = fingerprint("toy", 1, {"a": 1, "b": {"c": 2, "d": 3}}, {"x": "1", "y": "2"})
    assert one == fingerprint("toy", 1, {"b": {"d": 3, "c": 2}, "a": 1}, {"y": "2", "x": "1"})


def test_fingerprint__is_the_same_from_a_dataclass_and_from_its_record():
    assert fingerprint("toy", 1, Params(), {}) == fingerprint("toy", 1, canonical(Params()), {})


@pytest.mark.parametrize(
    "other",
    [
        ("toy2", 1, Params(), {"x": "1"}),
        ("toy", 2, Params(), {"x": "1"}),
        ("toy", 1, Params(lr=1e-3), {"x": "1"}),
        ("toy", 1, Params(loss=("simreg=1", "rkd=1")), {"x": "1"}),
        ("toy", 1, Params(prompt=""), {"x": "1"}),
        ("toy", 1, Params(), {"x": "2"}),
        ("toy", 1, Params(), {"y": "1"}),
    ],
    ids=["stage", "version", "number", "list", "none", "digest", "input"],
)
def test_fingerprint__hears_everything_that_was_asked_for(other):
    assert fingerprint(*other) != fingerprint("toy", 1, Params(), {"x": "1"})


def test_fingerprint__keeps_the_order_of_a_list():
    assert fingerprint("toy", 1, Params(loss=("a", "b")), {}) != fingerprint("toy", 1, Params(loss=("b", "a")), {})


FILES = (FileEntry("b", 2, "2" * 64), FileEntry("a/c", 1, "1" * 64))


def test_digest_of_files__is_pinned():
    assert digest_of_files(FILES) == "87c22f0041e91db88c6ce9d08dbeb2059ecef3caffd22bc810523e640d540a64"


def test_digest_of_files__does_not_hear_the_order_of_arrival():
    assert digest_of_files(FILES) == digest_of_files(FILES[::-1])


@pytest.mark.parametrize("other", [FileEntry("c", 2, "2" * 64), FileEntry("b", 3, "2" * 64), FileEntry("b", 2, "3")])
def test_digest_of_files__hears_path_size_and_bytes(other):
    assert digest_of_files((other, FILES[1])) != digest_of_files(FILES)
