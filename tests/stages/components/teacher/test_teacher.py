"""The frozen teacher: always in eval mode, always text, the same whatever the batches."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.input_module import InputModule
from sentence_transformers.sentence_transformer.modules import Pooling, Router, WordEmbeddings

import stages.components.teacher.loading
from data_schemas.errors import ProtoRKDError
from stages.components.teacher.identity import TeacherSource, find_teacher
from stages.components.teacher.network import TeacherNetwork
from stages.components.teacher.teacher import Teacher, _batch_tokens

CAPTIONS = ["red circle", "blue", "a green square beside a yellow stripe", "", "one two three four five six", "red"]


def network_of(teacher: Teacher) -> torch.nn.Module:
    assert isinstance(teacher._network, TeacherNetwork)
    return teacher._network._network


@pytest.fixture(scope="module")
def bert(bert_folder: Path) -> Teacher:
    return Teacher(find_teacher(str(bert_folder)))


@pytest.fixture(scope="module")
def words(word_vectors: Path) -> Teacher:
    return Teacher(find_teacher(str(word_vectors)))


def test_teacher__is_in_eval_mode_so_that_dropout_is_off(bert: Teacher) -> None:
    network = network_of(bert)
    dropouts = [module for module in network.modules() if isinstance(module, torch.nn.Dropout)]
    assert any(dropout.p > 0 for dropout in dropouts)
    assert not any(module.training for module in network.modules())
    first, second = (bert.encode(CAPTIONS, batch_tokens=64) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_teacher__gives_one_finite_float32_row_per_caption(bert: Teacher, words: Teacher) -> None:
    for teacher in (bert, words):
        embeddings = teacher.encode(CAPTIONS, batch_tokens=64)
        assert embeddings.shape == (len(CAPTIONS), teacher.dim)
        assert embeddings.dtype == np.float32
        assert np.isfinite(embeddings).all()


@pytest.mark.parametrize("batch_tokens", [1, 9, 40, 10_000])
def test_teacher__keeps_the_order_of_captions_whatever_the_budget(bert: Teacher, batch_tokens: int) -> None:
    alone = np.concatenate([bert.encode([caption], batch_tokens=8) for caption in CAPTIONS])
    np.testing.assert_allclose(bert.encode(CAPTIONS, batch_tokens=batch_tokens), alone, atol=1e-6)
    assert len(np.unique(alone.round(3), axis=0)) == len(CAPTIONS)


def test_teacher__gives_the_zero_vector_for_captions_without_a_known_word(words: Teacher) -> None:
    embeddings = words.encode(["red", "unheard", ""], batch_tokens=64)
    assert (embeddings != 0).any(axis=1).tolist() == [True, False, False]


def test_max_tokens__cuts_off_the_rest(bert_folder: Path) -> None:
    short = Teacher(find_teacher(str(bert_folder)), max_tokens=4)
    [cut, whole, other] = short.encode(["red circle blue square", "red circle", "blue square"], batch_tokens=64)
    np.testing.assert_allclose(cut, whole, atol=1e-6)
    assert not np.allclose(cut, other, atol=1e-3)


def test_max_tokens__works_on_word_vectors_too_or_is_refused(word_vectors: Path) -> None:
    if tuple(int(part) for part in metadata.version("sentence-transformers").split(".")[:2]) < (6, 2):
        with pytest.raises(ProtoRKDError, match="--max-tokens must be 0 for word vectors"):
            Teacher(find_teacher(str(word_vectors)), max_tokens=1)
        return
    first = Teacher(find_teacher(str(word_vectors)), max_tokens=1)
    [cut, whole] = first.encode(["red circle", "red"], batch_tokens=64)
    np.testing.assert_array_equal(cut, whole)


def test_max_tokens__beyond_the_limit_of_the_model_is_refused(bert_folder: Path) -> None:
    with pytest.raises(ProtoRKDError, match="--max-tokens must be at most the teacher's own limit, 32; got 33"):
        Teacher(find_teacher(str(bert_folder)), max_tokens=33)


def test_teacher__cuts_captions_at_its_own_limit(bert: Teacher) -> None:
    long = " ".join(["red"] * 100)
    [batch] = bert.tokenize(pa.array([long]), batch_tokens=8)
    assert batch.features["input_ids"].shape == (1, 32)
    np.testing.assert_allclose(bert.encode([long]), bert.encode([" ".join(["red"] * 30)]), atol=1e-6)


def test_prompt__stands_before_every_caption(bert_folder: Path, bert: Teacher) -> None:
    prompted = Teacher(find_teacher(str(bert_folder)), prompt="blue ").encode(["circle", "red"], batch_tokens=64)
    np.testing.assert_allclose(prompted, bert.encode(["blue circle", "blue red"], batch_tokens=64), atol=1e-6)


def test_truncate_dim__keeps_the_first_dimensions(bert_folder: Path, bert: Teacher) -> None:
    short = Teacher(find_teacher(str(bert_folder)), truncate_dim=5)
    assert short.dim == 5
    np.testing.assert_allclose(
        short.encode(CAPTIONS, batch_tokens=64), bert.encode(CAPTIONS, batch_tokens=64)[:, :5], atol=1e-6
    )


def test_truncate_dim__beyond_the_width_is_refused(word_vectors: Path) -> None:
    with pytest.raises(ProtoRKDError, match="--truncate-dim must be at most the teacher's width, 16; got 17"):
        Teacher(find_teacher(str(word_vectors)), truncate_dim=17)


def test_teacher__computes_in_no_precision_that_is_not_settled(bert_folder: Path) -> None:
    with pytest.raises(ProtoRKDError, match="precision must be one of fp32, bf16, fp16; got auto"):
        Teacher(find_teacher(str(bert_folder)), precision="auto")


@pytest.mark.parametrize(
    ("device", "width", "tokens"),
    [("cpu", 768, 1024), ("cuda:1", 768, 65536), ("cuda", 1024, 65536), ("cuda", 4096, 16384)],
)
def test_teacher__cuts_batches_to_suit_the_device(device: str, width: int, tokens: int, bert: Teacher) -> None:
    network = network_of(bert)
    config = network[0].config.__class__(**{**network[0].config.to_dict(), "hidden_size": width})  # type: ignore[index]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network[0].model, "config", config)  # type: ignore[index]
        assert _batch_tokens(network, torch.device(device)) == tokens  # type: ignore[arg-type]


class _ImageInput(InputModule):
    """The image side of a model that takes both; whatever reaches it was taken for an image."""

    modalities = ["image"]  # noqa: RUF012 - as sentence-transformers declares it
    config_keys: list[str] = []  # noqa: RUF012

    def preprocess(self, inputs: Any, prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        raise AssertionError(f"opened as an image: {inputs}")

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return features

    def get_embedding_dimension(self) -> int:
        return 16

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("this model is never saved")


def test_teacher__takes_a_caption_that_looks_like_an_image_as_text(
    monkeypatch: pytest.MonkeyPatch, word_vectors: Path, words: Teacher, pairs_folder: Callable[[int, int], Any]
) -> None:
    pairs = pairs_folder(1, 8)
    captions = ["http://localhost/red.jpg", str(pairs.root / pairs.images[0]), "data:image/png;base64,iVBORw0", "red"]
    vectors = WordEmbeddings.from_text_file(str(word_vectors))
    router = Router(
        {"text": [vectors, Pooling(16, pooling_mode="mean")], "image": [_ImageInput()]}, default_route="text"
    )
    model = SentenceTransformer(modules=[router], device="cpu")
    with pytest.raises(AssertionError, match="opened as an image"):
        model.encode(captions[1:2])
    monkeypatch.setattr(stages.components.teacher.loading, "_load", lambda source, device: model)
    seeing = Teacher(TeacherSource(name="both", path=word_vectors, kind="sentence-transformers"))
    np.testing.assert_array_equal(seeing.encode(captions, batch_tokens=64), words.encode(captions, batch_tokens=64))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not enough values"),
        (b"red a b\n", "could not convert"),
        (b"red\n", "no numbers"),
        (b"\x89PNG\xff\xfe", "codec can't decode"),
    ],
)
def test_teacher__refuses_a_file_that_holds_no_word_vectors(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(ProtoRKDError, match=f"--teacher must name a text file of word vectors.*{problem}"):
        Teacher(find_teacher(str(path)))


@pytest.mark.usefixtures("quiet_log")
def test_teacher__counts_lines_of_word_vectors_that_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "words.txt"
    path.write_text("red 1 2 3\ntorn 1 2\nblue 3 2 1\n")
    with caplog.at_level("INFO"):
        assert Teacher(find_teacher(str(path))).dim == 3
    assert _lines(caplog.messages, "passed over") == [
        f"1 lines of {path} have another width than the first and are passed over"
    ]


@pytest.mark.parametrize("name", ["model.safetensors", "modules.json", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"{"])
def test_teacher__refuses_a_broken_folder(bert_folder: Path, tmp_path: Path, name: str, content: bytes) -> None:
    broken = shutil.copytree(bert_folder, tmp_path / "broken")
    (broken / name).write_bytes(content)
    with pytest.raises(ProtoRKDError, match=re.escape(f"that sentence-transformers can load; {broken}")):
        Teacher(find_teacher(str(broken)))


def _lines(messages: Sequence[str], part: str) -> list[str]:
    return [message for message in messages if part in message]


@pytest.fixture
def coded_folder(bert_folder: Path, tmp_path: Path) -> Path:
    """Return a model whose last module is a class in a file beside it: it turns every embedding round."""
    root = shutil.copytree(bert_folder, tmp_path / "coded")
    modules = json.loads((root / "modules.json").read_text())
    modules.append({"idx": len(modules), "name": "turn", "path": "9_Turn", "type": "turning.Turn"})
    (root / "modules.json").write_text(json.dumps(modules))
    (root / "9_Turn").mkdir()
    (root / "9_Turn" / "config.json").write_text("{}")
    (root / "turning.py").write_text(
        "from sentence_transformers.base.modules import Module\n\n\n"
        "class Turn(Module):\n"
        "    config_keys = []\n\n"
        "    def forward(self, features):\n"
        "        return features | {'sentence_embedding': -features['sentence_embedding']}\n\n"
        "    def save(self, output_path, *args, **kwargs):\n"
        "        pass\n"
    )
    return root


@pytest.fixture
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the library's copies of code in a folder of the test, and have it find its own again afterwards."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    earlier = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("transformers_modules")}
    yield
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]
    sys.modules.update(earlier)


@pytest.mark.usefixtures("own_modules")
def test_teacher__runs_code_that_comes_with_it_only_when_told(coded_folder: Path, bert: Teacher) -> None:
    with pytest.raises(ProtoRKDError, match=r"Python code of its own\. Read that, and pass --trust-remote-code"):
        Teacher(find_teacher(str(coded_folder)))
    turned = Teacher(find_teacher(str(coded_folder), trust_code=True)).encode(["red", "blue circle"])
    np.testing.assert_allclose(turned, -bert.encode(["red", "blue circle"]), atol=1e-6)
