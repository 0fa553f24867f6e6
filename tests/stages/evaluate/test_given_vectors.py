"""Vectors by another tool in evaluate: of texts in place of the teacher, of images in place of a backbone."""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from backbones import make_tiny_backbone
from frozen_students import make_frozen_student
from numpy.typing import NDArray
from workbench import COLOURS, SHAPES, Cli, Pairs, draw_image

import protorkd
from data_schemas.artifact_record import ArtifactRecord
from pipeline.store.store import Artifact, Store
from stages.components.student.checkpoints import find_checkpoint
from stages.components.student.head_on_features import embed_features

EVALUATE = ("evaluate", "--device", "cpu", "--num-resamples", 100, "--no-overlap")
FEATURE_DIM = 8  # of `make_frozen_student` without a backbone

Vectors = Mapping[str, NDArray[np.float32]]


def write(path: Path, vectors: Vectors, *, key: str) -> Path:
    rows = pa.array([list(each) for each in vectors.values()], pa.list_(pa.float32()))
    pq.write_table(pa.table({key: list(vectors), "embedding": rows}), path)
    return path


def draw(keys: Sequence[str], *, dim: int = FEATURE_DIM) -> Vectors:
    random = np.random.default_rng(0)
    return {key: random.normal(size=dim).astype(np.float32) for key in keys}


def by_digest(root: Path, vectors: Vectors) -> Vectors:
    return {hashlib.sha256((root / name).read_bytes()).hexdigest(): each for name, each in vectors.items()}


def texts_in(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [row["caption"] for row in csv.DictReader(file, delimiter="\t")]


def no_loading(*_arguments: Any, **_options: Any) -> None:
    raise AssertionError("a model was loaded")


@pytest.fixture
def opened(encoded: Pairs, store: Path) -> Store:
    return Store(store)


@pytest.fixture
def student(opened: Store) -> Artifact:
    return make_frozen_student(opened, None)


@pytest.fixture
def features(encoded: Pairs) -> Vectors:
    return draw(encoded.images)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    root = tmp_path / "shapes"
    for split, size in (("train", 44), ("test", 40)):
        for colour in COLOURS[:3]:
            for shape in SHAPES:
                path = root / split / colour / f"{shape}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                draw_image(path, colour, shape, size)
    return root


@pytest.fixture
def text_vectors(store: Path) -> Vectors:
    """What the teacher gives for every text of the pairs and of the classes."""
    from stages.components.teacher.identity import find_teacher
    from stages.components.teacher.teacher import Teacher

    record = Store(store).resolve(None, stage="encode-teacher", flag="--embeddings").record
    prompts = [f"{words}{colour}" for colour in COLOURS for words in ("", "a ")]
    texts = [*protorkd.load_embeddings(store=store).captions.to_pylist(), *prompts]
    values = Teacher(find_teacher(record.inputs["teacher"].location)).encode(texts)
    return dict(zip(texts, values.astype(np.float32), strict=True))


def test_image_vectors__are_put_through_the_head(
    student: Artifact, features: Vectors, encoded: Pairs, run_cli: Cli, opened: Store, tmp_path: Path
) -> None:
    path = write(tmp_path / "features.parquet", features, key="filepath")
    words = (*EVALUATE, "--retrieval", encoded.manifest, "--image-vectors")
    outcome = run_cli(*words, path)
    weights = find_checkpoint(str(student.path), store=opened)
    rows = torch.from_numpy(np.stack(list(features.values())))
    images = embed_features(weights, rows, device=torch.device("cpu")).numpy()
    captions = protorkd.load_embeddings(store=opened.root)
    texts = captions.embeddings[:].astype(np.float32)[captions.pairs["caption_row"].to_numpy()]
    scores = texts / np.linalg.norm(texts, axis=1, keepdims=True) @ (images / np.linalg.norm(images, axis=1)[:, None]).T
    ranks = 1 + (scores > np.diagonal(scores)[:, None]).sum(axis=1)
    assert outcome["metrics"]["pairs/text_to_image/recall@5"] == pytest.approx(100 * (ranks <= 5).mean())
    report = json.loads((Path(outcome["path"]) / "report.json").read_text())
    assert report["image_vectors"] == str(path)
    assert "caption_vectors" not in report
    record = ArtifactRecord.read(Path(outcome["path"]))
    assert report["image_vectors_digest"] == record.inputs["image_vectors"].digest
    assert report["student"]["head"] == {"kind": "linear", "width": 0, "dropout": 0.0}
    assert "features.parquet" in (Path(outcome["path"]) / "report.html").read_text()
    digests = write(tmp_path / "digests.parquet", by_digest(encoded.root, features), key="sha256")
    assert run_cli(*words, digests)["metrics"] == outcome["metrics"]


def test_image_vectors__are_known_by_their_content(
    student: Artifact, features: Vectors, encoded: Pairs, run_cli: Cli, opened: Store, tmp_path: Path
) -> None:
    path = write(tmp_path / "features.parquet", features, key="filepath")
    words = (*EVALUATE, "--retrieval", encoded.manifest, "--image-vectors")
    first = run_cli(*words, path)
    assert run_cli(*words, path.rename(tmp_path / "moved.parquet"))["status"] == "unchanged"
    other = run_cli(*words, write(path, {name: -each for name, each in features.items()}, key="filepath"))
    assert other["status"] == "created"
    assert other["metrics"]["pairs/mean_recall"] != first["metrics"]["pairs/mean_recall"]
    assert len(opened.artifacts("image-embeddings")) == 2


def test_image_vectors__serve_class_sets_and_open_no_image(
    student: Artifact, classes: Path, run_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.evaluate.embeddings.image_pass.student_embeddings", no_loading)
    names = [f"{colour}/{shape}.jpg" for colour in COLOURS[:3] for shape in SHAPES]
    path = write(tmp_path / "features.parquet", draw(names), key="image")  # the same for both splits
    sets = ("--knn", classes, "--linear-probe", classes, "--knn-k", 1)
    metrics = run_cli(*EVALUATE, *sets, "--image-vectors", path)["metrics"]
    assert metrics["shapes/knn/top1"] == metrics["shapes/knn_backbone/top1"] == 100


def test_image_vectors__that_are_missing_count_as_unreadable_images(
    student: Artifact, features: Vectors, encoded: Pairs, run_cli: Cli, tmp_path: Path
) -> None:
    lost = encoded.images[2]
    some = {name: each for name, each in features.items() if name != lost}
    path = write(tmp_path / "features.parquet", some, key="filepath")
    words = (*EVALUATE, "--retrieval", encoded.manifest, "--image-vectors", path)
    message = run_cli.fails(*words)
    assert f"pairs has 1 of {len(encoded.images)}" in message
    assert "no vector has its key" in message
    outcome = run_cli(*words, "--max-bad-fraction", 0.2)
    report = json.loads((Path(outcome["path"]) / "report.json").read_text())
    assert {entry["rejected"] for entry in report["sets"]} == {1}
    assert {entry["num_images"] for entry in report["sets"]} == {len(encoded.images) - 1}
    strange = write(tmp_path / "strange.parquet", draw(["elsewhere.jpg"]), key="filepath")
    assert "--image-vectors must have the keys of the images" in run_cli.fails(*words[:-1], strange)


def test_image_vectors__of_another_width_or_for_another_student_are_refused(
    student: Artifact, encoded: Pairs, run_cli: Cli, opened: Store, tmp_path: Path
) -> None:
    path = write(tmp_path / "features.parquet", draw(encoded.images, dim=5), key="filepath")
    words = (*EVALUATE, "--retrieval", encoded.manifest, "--image-vectors", path)
    assert f"must be as wide as those that the student was distilled from, {FEATURE_DIM}; got 5" in run_cli.fails(
        *words
    )
    with_backbone = make_frozen_student(opened, make_tiny_backbone(opened))
    message = run_cli.fails(*words, "--student", with_backbone.path)
    assert "--image-vectors must go with a student whose features came from encode-images --vectors" in message


def test_caption_vectors__measure_a_student_of_vectors_alone(
    encoded: Pairs, features: Vectors, text_vectors: Vectors, run_cli: Cli, opened: Store, tmp_path: Path
) -> None:
    taught = write(tmp_path / "taught.parquet", {each: text_vectors[each] for each in encoded.captions}, key="caption")
    run_cli("encode-teacher", "--manifest", encoded.manifest, "--vectors", taught, "--teacher-name", "some/model")
    make_frozen_student(opened, None)
    images = write(tmp_path / "features.parquet", features, key="filepath")
    words = (*EVALUATE, "--retrieval", encoded.manifest, "--image-vectors", images)
    message = run_cli.fails(*words)
    assert "protorkd prompts" in message
    assert "--caption-vectors" in message
    outcome = run_cli(*words, "--caption-vectors", taught)
    report = json.loads((Path(outcome["path"]) / "report.json").read_text())
    assert report["teacher"]["name"] == "some/model"
    assert report["caption_vectors"] == str(taught)
    assert {entry["task"] for entry in report["sets"]} == {"retrieval", "geometry", "neighbourhoods"}
    assert run_cli(*words, "--caption-vectors", taught)["status"] == "unchanged"


def test_caption_vectors__spare_the_teacher(
    encoded: Pairs,
    classes: Path,
    text_vectors: Vectors,
    run_cli: Cli,
    opened: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_frozen_student(opened, make_tiny_backbone(opened))
    templates = ("--template", "{}", "--template", "a {}")
    sets = ("--retrieval", encoded.manifest, "--zero-shot", classes, *templates, "--workers", 0, "--precision", "fp32")
    by_teacher = run_cli(*EVALUATE, *sets)
    written = tmp_path / "prompts.tsv"
    for_sets = ("--for", encoded.manifest, "--for", classes, *templates)
    assert run_cli.run("prompts", *for_sets, "--output", written).exit_code == 0
    texts = texts_in(written)
    assert texts == [*dict.fromkeys([*encoded.captions, *(f"{a}{c}" for c in sorted(COLOURS[:3]) for a in ("", "a "))])]
    np.save(tmp_path / "prompts.npy", np.stack([text_vectors[text] for text in texts]))  # beside the table
    monkeypatch.setattr("stages.components.embeddings.caption_embeddings.load_teacher", no_loading)
    by_vectors = run_cli(*EVALUATE, *sets, "--caption-vectors", tmp_path / "prompts.npy")
    assert by_vectors["status"] == "created"
    assert by_vectors["metrics"] == pytest.approx(by_teacher["metrics"])
    assert run_cli(*EVALUATE, *sets)["status"] == "unchanged"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--teacher", "some/model"), "--caption-vectors must go without --teacher"),
        (("--query-prompt-name", "query"), "--caption-vectors must go without --query-prompt-name"),
        (("--vector-key", "letter"), "none of them letter"),
        (("--sts", "STS"), "has none for 3, the first 'a song'"),
        (("--zero-shot", "CLASSES"), "`protorkd prompts` writes the texts"),
    ],
    ids=["teacher", "query-prompt", "key", "sts", "zero-shot"],
)
def test_caption_vectors__say_what_does_not_fit(
    more: Sequence[object],
    said: str,
    student: Artifact,
    classes: Path,
    encoded: Pairs,
    text_vectors: Vectors,
    run_cli: Cli,
    tmp_path: Path,
) -> None:
    sts = tmp_path / "sts.csv"
    sts.write_text("score,sentence1,sentence2\n1,a song,a tune\n2,a dog,a tune\n")
    path = write(tmp_path / "texts.parquet", {each: text_vectors[each] for each in encoded.captions}, key="caption")
    words = [{"STS": sts, "CLASSES": classes}.get(str(word), word) for word in more]
    message = run_cli.fails(*EVALUATE, "--retrieval", encoded.manifest, "--caption-vectors", path, *words)
    assert said in message


def test_caption_vectors__of_another_width_are_refused(
    student: Artifact, encoded: Pairs, run_cli: Cli, tmp_path: Path
) -> None:
    path = write(tmp_path / "texts.parquet", draw(encoded.captions, dim=5), key="caption")
    message = run_cli.fails(*EVALUATE, "--retrieval", encoded.manifest, "--caption-vectors", path)
    assert "distilled from, 16 wide; got vectors of 5" in message


def test_caption_vectors__that_hold_nothing_are_named(
    student: Artifact, features: Vectors, encoded: Pairs, text_vectors: Vectors, run_cli: Cli, tmp_path: Path
) -> None:
    some = {each: text_vectors[each] for each in encoded.captions} | {encoded.captions[1]: np.zeros(16, np.float32)}
    path = write(tmp_path / "texts.parquet", some, key="caption")
    images = write(tmp_path / "features.parquet", features, key="filepath")
    words = (*EVALUATE, "--retrieval", encoded.manifest, "--image-vectors", images, "--caption-vectors", path)
    assert f"has none for 1, the first {encoded.captions[1]!r}: its vector is all zeros" in run_cli.fails(*words)
