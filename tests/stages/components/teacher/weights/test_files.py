"""What files of weights hold is known from their names and types alone, without torch."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from stages.components.teacher.weights.files import changes_on_loading, describe_weights, missing_layers, plain_name
from stages.components.teacher.weights.mending import mend_weights


@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin", "legacy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weight_files__names_and_types_are_those_of_the_tensors(form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {"a.weight": torch.zeros(2, dtype=dtype), "ids": torch.zeros(2, dtype=torch.int64)}
    path = tmp_path / ("pytorch_model.bin" if form == "legacy" else form)
    if form == "model.safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=form != "legacy")
    weights = describe_weights(path)
    assert set(tensors) <= weights.names
    assert weights.has_halves is (dtype != torch.float32)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("content", [b"", b"{", b"\x00" * 9, b"\xff" * 20, b"PK\x03\x04 no archive"])
def test_weight_files__say_nothing_of_a_broken_file(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert not describe_weights(tmp_path / name).names
    assert changes_on_loading(tmp_path) == {}


@pytest.mark.parametrize(
    ("dtype", "config", "changes"),
    [
        (torch.float32, {}, {}),
        (torch.float32, {"dtype": "float32"}, {}),
        (torch.bfloat16, {}, {"half precision": "widened"}),
        (torch.float16, {"torch_dtype": "float16"}, {"half precision": "widened"}),
        (torch.float32, {"torch_dtype": "bfloat16"}, {"half precision": "widened"}),
        (torch.bfloat16, {"dtype": "float32"}, {}),  # the library has always widened these
    ],
)
def test_changes_on_loading__are_where_the_library_would_compute_in_half_precision(
    dtype: torch.dtype, config: dict[str, Any], changes: dict[str, str], tmp_path: Path
) -> None:
    safetensors.torch.save_file({"a": torch.zeros(2, dtype=dtype)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"} | config))
    assert changes_on_loading(tmp_path) == changes


@pytest.mark.parametrize(
    ("config", "names", "missing"),
    [
        ({"num_hidden_layers": 3}, ["encoder.layer.0.a", "bert.encoder.layer.2.a"], [1]),
        ({"num_hidden_layers": 2}, ["module.encoder.layer.0.a", "module.encoder.layer.1.a"], []),
        ({"n_layers": 2}, ["distilbert.transformer.layer.0.a"], [1]),
        ({"num_hidden_layers": 1}, ["encoder.layer.0.a", "encoder.layer.1.a"], []),  # too many: loading tells
        ({"num_hidden_layers": 12}, ["encoder.albert_layer_groups.0.albert_layers.0.a"], []),
        ({"num_hidden_layers": 2}, ["model.layers.0.a", "layer.0.a"], []),
        ({"num_hidden_layers": 3, "auto_map": {"AutoModel": "m.M"}}, ["encoder.layer.0.a"], []),
        ({"num_hidden_layers": "two"}, ["encoder.layer.0.a"], []),
    ],
)
def test_missing_layers__are_those_that_no_file_holds(
    config: dict[str, Any], names: list[str], missing: list[int], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"} | config))
    for number, name in enumerate(names):
        path = tmp_path / f"model-{number}.safetensors"
        safetensors.torch.save_file({name: torch.zeros(1)}, path)
    assert missing_layers(tmp_path) == missing


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("encoder.layer.0.weight", "encoder.layer.0.weight"),
        ("_orig_mod.encoder.weight", "encoder.weight"),
        ("module._orig_mod.model.encoder.weight", "encoder.weight"),
        ("encoder.layer.0._orig_mod.weight", "encoder.layer.0.weight"),
        ("encoder.module.weight", "encoder.module.weight"),
    ],
)
def test_plain_name__is_without_what_wrappers_put_there(name: str, plain: str) -> None:
    assert plain_name(name) == plain


def test_mend_weights__rewrites_shards_of_pickles_and_their_index(tmp_path: Path) -> None:
    shards = {f"pytorch_model-0000{number}-of-00002.bin": f"module.layer.{number}.weight" for number in (1, 2)}
    for file, name in shards.items():
        torch.save({name: torch.ones(2, dtype=torch.bfloat16)}, tmp_path / file)
    index = {"weight_map": {name: file for file, name in shards.items()}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    mend_weights(tmp_path, widen=True)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {
        f"layer.{number}.weight": f"model-0000{number}-of-00002.safetensors" for number in (1, 2)
    }
    for name, file in index["weight_map"].items():
        assert torch.equal(safetensors.torch.load_file(tmp_path / file)[name], torch.ones(2))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors", ".safetensors"]
