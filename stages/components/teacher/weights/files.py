"""Read what a teacher's files of weights hold, by name and type of number, without torch and without the numbers."""

import json
import pickletools
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_HALVES = {"F16", "BF16", "HalfStorage", "BFloat16Storage", "float16", "bfloat16"}
_LONGEST_HEADER = 100_000_000  # bytes; what the safetensors library itself allows
_PICKLES = 4  # torch.save wrote two numbers and the system's facts before the tensors, until 2020
_WRAPPED = ("module.", "_orig_mod.")  # by DataParallel and by torch.compile
_PREFIX = re.compile(r"^(?:module\.|_orig_mod\.|model\.)+")
_COMPILED = re.compile(r"(^|\.)_orig_mod\.")
# Names behind Lightning's "model." in networks that do not call themselves so, as Llama and ModernBERT do.
_WRAPPED_MODEL = re.compile(r"model\.(?:(?:\w+\.)?(?:embeddings\.word_embeddings|encoder\.block\.0)\.|linear\.weight$)")
_LAYER = re.compile(r"(?:^|\.)(?:encoder|transformer)\.layer\.(\d+)\.")
_NUM_LAYERS = ("num_hidden_layers", "n_layers")  # DistilBERT has the second
_STATIC = "StaticEmbedding"


@dataclass(frozen=True)
class WeightFile:
    """What a file of weights holds.

    Args:
        names: Names of its tensors; of a pickle all its strings.
        has_halves: Whether some of its numbers are float16 or bfloat16.
    """

    names: frozenset[str]
    has_halves: bool


def find_weights(folder: Path) -> list[Path]:
    """List the files of weights below a folder that the library loads, safetensors before pickles."""
    files = sorted([*folder.rglob("*.safetensors"), *folder.rglob("pytorch_model*.bin")])
    return [file for file in files if file.suffix != ".bin" or not any(file.parent.glob("model*.safetensors"))]


def describe_weights(path: Path) -> WeightFile:
    """Read the names and types of a file's tensors; of a file that cannot be read, none."""
    try:
        with path.open("rb") as file:
            names, types = _safetensors(file) if path.suffix == ".safetensors" else _pickled(file)
    except (OSError, ValueError, AttributeError, TypeError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
        return WeightFile(frozenset(), has_halves=False)  # loading says what is wrong with it
    return WeightFile(frozenset(names), has_halves=bool(_HALVES & types))


def plain_name(name: str) -> str:
    """Strip what DataParallel, torch.compile and Lightning put before the name of a tensor."""
    return _PREFIX.sub("", _COMPILED.sub(r"\1", name))


def changes_on_loading(folder: Path) -> dict[str, str]:
    """Tell in what the network differs from its files; a sound teacher in float32 does in nothing.

    It is part of a teacher's identity, because such teachers were once taken as their files have them.

    Args:
        folder: Folder of a sentence-transformers model.

    Returns:
        What is done to the weights, by what they are.
    """
    weights = {path: describe_weights(path) for path in find_weights(folder)}
    changes = {}
    if any(_is_half(path.parent, weight) for path, weight in weights.items()):
        changes["half precision"] = "widened"
    if any(_is_wrapped(weight) for weight in weights.values()):
        changes["wrapped names"] = "stripped"
    return changes


def missing_layers(folder: Path) -> list[int]:
    """List the layers of a transformer of which its files hold nothing, though its configuration counts them.

    Only names as BERT and its kin have them are looked at; loading finds what is missing of any network. It is told
    here because an artifact that such a teacher once made with random weights would be found without loading.

    Args:
        folder: Folder of a sentence-transformers model.
    """
    for config_path in sorted(folder.rglob("config.json")):
        config = _read_json(config_path)
        if not isinstance(config, dict) or "model_type" not in config or "auto_map" in config:
            continue
        count = next((config[name] for name in _NUM_LAYERS if isinstance(config.get(name), int)), 0)
        files = [path for path in find_weights(config_path.parent) if path.parent == config_path.parent]
        names = {name for path in files for name in describe_weights(path).names}
        found = {int(match[1]) for name in names if (match := _LAYER.search(plain_name(name)))}
        if found and (missing := set(range(count)) - found):
            return sorted(missing)
    return []


def _is_wrapped(weight: WeightFile) -> bool:
    return any(
        name.startswith(_WRAPPED) or _COMPILED.search(name) or _WRAPPED_MODEL.match(name) for name in weight.names
    )


def _is_half(folder: Path, weight: WeightFile) -> bool:
    """Return whether the library by itself makes a network of half precision: as its configuration, else its file."""
    config = _read_json(folder / "config.json")
    if not isinstance(config, dict) or "model_type" not in config:
        # Other modules are made in float32 and then filled, but for a table of vectors, which is taken as it is.
        return weight.has_halves and _is_static(folder)
    named = config.get("dtype") or config.get("torch_dtype")
    return named in _HALVES if isinstance(named, str) else weight.has_halves


def _is_static(folder: Path) -> bool:
    lists = (_read_json(root / "modules.json") for root in (folder, folder.parent))
    kinds = [str(module.get("type")) for modules in lists if isinstance(modules, list) for module in modules]
    return any(kind.endswith(_STATIC) for kind in kinds)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _safetensors(file: BinaryIO) -> tuple[set[str], set[str]]:
    size = int.from_bytes(file.read(8), "little")
    if size > _LONGEST_HEADER:
        raise ValueError("no header")
    tensors = json.loads(file.read(size))
    tensors.pop("__metadata__", None)
    return set(tensors), {entry["dtype"] for entry in tensors.values()}


def _pickled(file: BinaryIO) -> tuple[set[str], set[str]]:
    """Go through a pickle's strings and classes; nothing of it is run."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(name) as data:
                words = set(_words(data))
    else:
        file.seek(0)
        words = {word for _ in range(_PICKLES) for word in _words(file)}
    return words, {word.rpartition(" ")[2] for word in words}


def _words(file: Any) -> Iterator[str]:
    for _, argument, _ in pickletools.genops(file):
        if isinstance(argument, str):
            yield argument
