"""What transformers does not find is noted while a teacher is loaded, and no other load is touched."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, PreTrainedModel

from stages.components.teacher.weights.load_faults import noted_loads


@pytest.fixture
def narrower(bert_folder: Path, tmp_path: Path) -> Path:
    """A network one of whose weights has another shape in the file than in the configuration."""
    AutoModel.from_pretrained(bert_folder).save_pretrained(tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    tensors["pooler.dense.bias"] = tensors["pooler.dense.bias"][:3].clone()
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


def test_noted_loads__know_what_the_files_lack(bert_folder: Path, narrower: Path) -> None:
    with noted_loads() as loads:
        network = AutoModel.from_pretrained(narrower)
    model = SentenceTransformer(str(bert_folder), device="cpu")
    model[0].model = network
    assert not loads.faults(model).missing  # no caption passes through the pooler
    with noted_loads() as loads:
        model[0].model, report = AutoModel.from_pretrained(narrower, output_loading_info=True)
    assert "pooler.dense.bias" in {key for key, *_ in report["mismatched_keys"]}


def test_noted_loads__leave_other_threads_and_what_comes_after_alone(narrower: Path) -> None:
    own = PreTrainedModel.__dict__["from_pretrained"]

    def load() -> None:
        with pytest.raises(RuntimeError, match=r"pooler|mismatch"):
            AutoModel.from_pretrained(narrower)

    with noted_loads(), ThreadPoolExecutor(1) as pool:
        pool.submit(load).result()
    assert PreTrainedModel.__dict__["from_pretrained"] is own
    load()
