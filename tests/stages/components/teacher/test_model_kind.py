"""Models that rank, fill in or match token by token are no teachers, and are told by their configuration."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_schemas.errors import ProtoRKDError
from stages.components.teacher.identity import find_teacher

SETTINGS, MODULES, CONFIG = "config_sentence_transformers.json", "modules.json", "config.json"


def listed(*types: str) -> list[dict[str, Any]]:
    return [{"idx": index, "path": "", "type": kind} for index, kind in enumerate(types)]


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({CONFIG: {"architectures": ["BertForSequenceClassification"]}}, "BertForSequenceClassification without"),
        ({CONFIG: {"architectures": ["RobertaForMaskedLM"]}}, "RobertaForMaskedLM without"),
        ({CONFIG: {"architectures": ["LlamaForCausalLM"]}}, "LlamaForCausalLM without"),
        ({CONFIG: {"architectures": ["GPT2LMHeadModel"]}}, "GPT2LMHeadModel without"),
        ({CONFIG: {"architectures": ["HF_ColBERT"]}}, "HF_ColBERT without"),
        ({MODULES: [], SETTINGS: {"model_type": "CrossEncoder"}}, "a cross-encoder"),
        ({MODULES: [], SETTINGS: {"model_type": "SparseEncoder"}}, r"a sparse encoder \(SPLADE\)"),
        ({MODULES: [], SETTINGS: {"model_type": "MultiVectorEncoder"}}, r"a multi-vector model \(ColBERT\)"),
        ({MODULES: listed("sentence_transformers.sparse_encoder.models.MLMTransformer")}, "a sparse encoder"),
        ({MODULES: listed("sentence_transformers.models.Transformer", "pylate.models.Dense.Dense")}, "a multi-vector"),
    ],
)
def test_model_kind__refuses_what_does_not_embed_sentences(files: dict[str, Any], kind: str, tmp_path: Path) -> None:
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    with pytest.raises(
        ProtoRKDError, match=f"--teacher must name a sentence-embedding model; got .*, which is .*{kind}"
    ):
        find_teacher(str(tmp_path))


@pytest.mark.parametrize(
    "files",
    [
        {CONFIG: {"architectures": ["BertModel"]}},
        {CONFIG: {"model_type": "bert"}},
        {
            MODULES: listed("sentence_transformers.models.Transformer"),
            CONFIG: {"architectures": ["RobertaForMaskedLM"]},
        },
        {MODULES: [], SETTINGS: {"model_type": "SentenceTransformer"}},
    ],
)
def test_model_kind__takes_sentence_models_and_bare_networks(files: dict[str, Any], tmp_path: Path) -> None:
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    assert find_teacher(str(tmp_path)).path == tmp_path.resolve()
