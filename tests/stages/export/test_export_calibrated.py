"""An export whose embeddings are calibrated; and captions that are the bare teacher's, bit for bit, in every export."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import Exported
from PIL import Image
from workbench import DISTILL, Cli, Pairs

import protorkd
from data_schemas.calibration import Calibration
from data_schemas.errors import ProtoRKDError
from pipeline.runner import context_of
from pipeline.store.store import Store
from stages import STAGES
from stages.components.calibration.calibration import CalibrationRuntime, identify_calibration, make_calibration
from stages.components.calibration.extended_vectors import extend_images
from stages.components.images.decoding import open_image
from stages.components.student.checkpoints import find_checkpoint
from stages.components.teacher.identity import find_teacher
from stages.components.teacher.loading import load_model as load_teacher
from stages.export import folder_check
from stages.export.loading import load_model
from stages.export.parity import require_same

CAPTIONS = ["red circle", "a blue square and a grey stripe", ""]


def images_of(pairs: Pairs, num: int = 5) -> list[Image.Image]:
    return [open_image(pairs.root / name) for name in pairs.images[:num]]


def calibration_of(store: Path, kind: str) -> Calibration:
    opened = Store(store)
    source = identify_calibration(find_checkpoint(None, store=opened), kind).value
    return make_calibration(source, CalibrationRuntime("cpu"), context_of(opened, stages=STAGES))[0]


@pytest.mark.parametrize("kind", ["query-bank", "mixed"])
def test_export__extends_images_and_leaves_captions_bit_for_bit(
    kind: str, exported: Exported, run_cli: Cli, word_vectors: Path, store: Path, tmp_path: Path
) -> None:
    asked = ("export", "--format", "sentence-transformers", "--format", "onnx", "--calibrate", kind)
    outcome = run_cli(*asked)
    assert run_cli(*asked)["status"] == "unchanged"
    model, images = load_model(outcome["path"], device="cpu"), images_of(exported.pairs)
    wanted = protorkd.load_student(store=store, device="cpu").encode(images, normalize=True)
    extended = extend_images(wanted, calibration_of(store, kind))
    np.testing.assert_allclose(model.encode(images), extended, atol=1e-5)
    bare = load_teacher(find_teacher(str(word_vectors))).encode(CAPTIONS, normalize_embeddings=True)
    for encode, last in ((model.encode, 0), (model.encode_document, 0), (model.encode_query, 1)):
        texts = encode(CAPTIONS)
        assert np.array_equal(texts[:, :-1], bare)
        assert (texts[:, -1] == last).all()
    assert (model.similarity_fn_name, model.get_embedding_dimension()) == ("dot", 17)
    card = (Path(outcome["path"]) / "README.md").read_text()
    assert "encode_query" in card
    assert "unit length: cosine" not in card
    described = json.loads((Path(outcome["path"]) / "onnx" / "preprocessing.json").read_text())["output"]
    assert (described["shape"], described["calibration"]) == (["batch", 17], kind)
    model.save(str(tmp_path / "again"))
    again = load_model(tmp_path / "again", device="cpu")
    assert np.array_equal(again.encode(images), model.encode(images))


def test_export__that_is_calibrated_is_loaded_by_the_library_alone(
    exported: Exported, run_cli: Cli, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    run_cli("export", "--calibrate", "mixed", "--output", tmp_path / "model")
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu", trust_remote_code=True)
    ours, images = load_model(tmp_path / "model", device="cpu"), images_of(exported.pairs, 3)
    assert np.array_equal(theirs.encode(images), ours.encode(images))
    assert np.array_equal(theirs.encode_query(CAPTIONS), ours.encode_query(CAPTIONS))
    assert theirs.similarity_fn_name == "dot"


@pytest.mark.parametrize("teacher", ["bert", "word vectors"])
def test_export__proves_captions_to_be_the_bare_teachers(
    teacher: str,
    encoded: Pairs,
    run_cli: Cli,
    word_vectors: Path,
    bert_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = {"bert": bert_folder, "word vectors": word_vectors}[teacher]
    options = ("--max-tokens", 4, "--prompt", "red ", "--truncate-dim", 12) if teacher == "bert" else ()
    run_cli("encode-teacher", "--manifest", encoded.manifest, "--teacher", folder, "--device", "cpu", *options)
    run_cli(*DISTILL, "--epochs", 1)
    compared: list[np.ndarray] = []
    monkeypatch.setattr(folder_check, "require_same", lambda found, wanted, what: compared.extend((found, wanted)))
    run_cli("export")
    *_, found, wanted = compared
    assert found.shape == (4, 12 if options else 16)
    assert np.array_equal(found, wanted)


def test_export__ends_where_captions_differ_in_a_bit(
    exported: Exported, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = folder_check._by_bare_teacher

    def nudged(*arguments: Any) -> np.ndarray:
        vectors = real(*arguments).copy()
        vectors[0, 0] = np.nextafter(vectors[0, 0], np.float32(2))
        return vectors

    monkeypatch.setattr(folder_check, "_by_bare_teacher", nudged)
    assert "Captions must be the bare teacher's, bit for bit" in run_cli.fails("export", "--force")


def test_require_same__refuses_another_shape() -> None:
    with pytest.raises(ProtoRKDError, match="bit for bit"):
        require_same(np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32), what="Captions")


def test_export__refuses_to_calibrate_weights_alone(exported: Exported, run_cli: Cli) -> None:
    asked = ("export", "--format", "torch", "--format", "onnx", "--calibrate", "mixed")
    assert "--calibrate must go without --format torch" in run_cli.fails(*asked)
