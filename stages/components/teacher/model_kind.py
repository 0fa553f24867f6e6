"""Tell a model that embeds sentences from its relatives that rank, fill in or match token by token."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError

_MODULES, _SETTINGS, _CONFIG = "modules.json", "config_sentence_transformers.json", "config.json"
_OWN = "SentenceTransformer"
# What models of other kinds are, by the packages that their modules come from.
_OTHER_PACKAGES = {
    "sentence_transformers.sparse_encoder.": "a sparse encoder (SPLADE)",
    "sentence_transformers.cross_encoder.": "a cross-encoder, which scores pairs of texts",
    "sentence_transformers.multi_vector_encoder.": "a multi-vector model (ColBERT), with a vector for each token",
    "pylate.": "a multi-vector model (ColBERT), with a vector for each token",
}
_OTHER_TYPES = {
    "SparseEncoder": _OTHER_PACKAGES["sentence_transformers.sparse_encoder."],
    "CrossEncoder": _OTHER_PACKAGES["sentence_transformers.cross_encoder."],
    "MultiVectorEncoder": _OTHER_PACKAGES["sentence_transformers.multi_vector_encoder."],
}
_HEAD = re.compile(r".For[A-Z]\w*$|LMHeadModel$|ColBERT|Splade", re.IGNORECASE)


def names_pooling(folder: Path) -> bool:
    """Return whether a folder says how a sentence's embedding is made of its tokens'."""
    return (folder / _MODULES).is_file()


def check_embeds_sentences(folder: Path, *, name: str) -> None:
    """Refuse a model of another kind, of which the library would silently make a mean of tokens.

    Args:
        folder: Folder of sentence-transformers, or of transformers alone.
        name: Name by which the user gave it.

    Raises:
        ProtoRKDError: its configuration names another kind of model, or a head.
    """
    kind = _other_kind(folder)
    if kind is not None:
        raise ProtoRKDError(
            f"--teacher must name a sentence-embedding model; got {name}, which is {kind}. Pass another model. Where "
            "the mean of this one's tokens is wanted all the same, say so by saving it as one: "
            "SentenceTransformer(modules=[t := Transformer(FOLDER), Pooling(t.get_embedding_dimension(), 'mean')])"
            ".save(OTHER_FOLDER)."
        )


def _other_kind(folder: Path) -> str | None:
    settings = _read(folder / _SETTINGS)
    named = settings.get("model_type", _OWN) if isinstance(settings, dict) else _OWN
    if named != _OWN:
        return _OTHER_TYPES.get(str(named), f"a {named}")
    for kind in _module_types(folder):
        for package, text in _OTHER_PACKAGES.items():
            if kind.startswith(package):
                return text
    if names_pooling(folder):
        return None
    config = _read(folder / _CONFIG)
    architectures = config.get("architectures") if isinstance(config, dict) else None
    heads = [str(each) for each in architectures or [] if _HEAD.search(str(each))]
    return f"a {heads[0]} without a pooling (no {_MODULES})" if heads else None


def _module_types(folder: Path) -> Iterator[str]:
    modules = _read(folder / _MODULES)
    for module in modules if isinstance(modules, list) else []:
        if isinstance(module, dict):
            yield str(module.get("type", ""))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None  # loading says what is wrong with it
