"""Rewrite a folder's weights under their plain names and in float32, for libraries that load files as they are."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from data_schemas.files import read_json, write_unsynced
from stages.components.compute.tensor_file import write_tensors
from stages.components.teacher.weights.files import describe_weights, find_weights, plain_name

HALVES = (torch.float16, torch.bfloat16)


def renamed_weights(folder: Path) -> set[str]:
    """Return the names, after a dot, under which `mend_weights` would put those weights whose name it changes."""
    names = (name for path in find_weights(folder) for name in describe_weights(path).names)
    return {f".{plain_name(name)}" for name in names if plain_name(name) != name}


@contextmanager
def mended_copy(folder: Path) -> Iterator[Path]:
    """Make a passing copy of a folder with mended weights; its other files are links."""
    with TemporaryDirectory(prefix="protorkd-teacher-") as name:
        copy = Path(name) / folder.name
        for path in folder.rglob("*"):
            target = copy / path.relative_to(folder)
            if path.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path.resolve())
        mend_weights(copy, widen=False)
        yield copy


def mend_weights(folder: Path, *, widen: bool) -> None:
    """Strip what a wrapper put before the names of weights, in all files below a folder; pickles become safetensors.

    Args:
        folder: Folder to change. Files are replaced, so that links in it leave what they point to alone.
        widen: Whether half precision becomes float32, in weights and configurations.
    """
    for path in find_weights(folder):
        tensors = _read(path)
        plain = {plain_name(name): tensor for name, tensor in tensors.items()}
        if len(plain) < len(tensors):
            plain = tensors  # two tensors would get one name: what is missing is told when it is loaded
        _replace(path, {name: _as_stored(tensor, widen=widen) for name, tensor in plain.items()})
    for path in [*folder.rglob("model.safetensors.index.json"), *folder.rglob("pytorch_model.bin.index.json")]:
        index = read_json(path)
        shards = {plain_name(name): _new_name(shard) for name, shard in index["weight_map"].items()}
        _write_json(path.with_name("model.safetensors.index.json"), {**index, "weight_map": shards})
        if path.name.startswith("pytorch_model"):
            path.unlink()
    for path in folder.rglob("config.json") if widen else ():
        _name_float32(path)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors


def _replace(path: Path, tensors: dict[str, Tensor]) -> None:
    target = path.with_name(_new_name(path.name))
    write_tensors(tensors, target, metadata={"format": "pt"})
    if target != path:
        path.unlink()


def _new_name(name: str) -> str:
    return name.replace("pytorch_model", "model").removesuffix(".bin") + ".safetensors" if name[-4:] == ".bin" else name


def _as_stored(tensor: Tensor, *, widen: bool) -> Tensor:
    return (tensor.float() if widen and tensor.dtype in HALVES else tensor).contiguous()


def _name_float32(path: Path) -> None:
    config = read_json(path)
    if not isinstance(config, dict) or "model_type" not in config:
        return
    changed = {name: "float32" for name in ("dtype", "torch_dtype") if name in config}
    if changed:
        _write_json(path, config | changed)


def _write_json(path: Path, value: Any) -> None:
    if path.is_symlink():
        path.unlink()
    write_unsynced(path, json.dumps(value, indent=2).encode())
