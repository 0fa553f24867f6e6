"""embed, end to end: every image of a source has its row, once, whatever happened on the way."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from workbench import ROOT, Cli, Pairs, draw_image, make_manifest, power_cut

from data_schemas.embedding_array import IMAGE_KIND, EmbeddingArray
from data_schemas.images.embedded_images import EmbedConfig, read_images
from data_schemas.images.student_checkpoint import WEIGHTS_NAME, StudentConfig
from data_schemas.pair_index import read_rejected
from stages.components.images.lazy_image import open_lazily
from stages.components.images.transforms import EvalTransform, Normalize
from stages.components.student.weights import load_student

EMBED = ("embed", "--device", "cpu", "--precision", "fp32", "--workers", 0)
NUM = 24


@pytest.fixture
def image_pairs(trained: Any, encoded_session: tuple[Path, Pairs], tmp_path: Path) -> Pairs:
    """Return the 24 images of the training, where a test may change them."""
    known = encoded_session[1]
    root = shutil.copytree(known.root, tmp_path / "pictures")
    return Pairs(root, root / "pairs.tsv", known.images, known.captions)


def read(outcome: dict[str, Any]) -> np.ndarray:
    embeddings = EmbeddingArray.open(Path(outcome["path"]), kind=IMAGE_KIND)
    return embeddings.read(0, embeddings.rows)


def test_embed__gives_what_the_student_makes_of_each_image_alone(
    trained: dict[str, Any], image_pairs: Pairs, run_cli: Cli
) -> None:
    outcome = run_cli(*EMBED, "--images", image_pairs.root / "images", "--embedding-dtype", "float32")
    folder = Path(trained["path"])
    config = StudentConfig.read(folder)
    student = load_student(config, folder / WEIGHTS_NAME, device=torch.device("cpu"))
    normalize = Normalize(config.preprocessing, torch.device("cpu"))
    images = read_images(Path(outcome["path"]))
    assert images["image"].to_pylist() == [f"{number:03}.jpg" for number in range(NUM)]
    for row, image in zip(images["image_row"].to_pylist(), images["image"].to_pylist(), strict=True):
        pixels = EvalTransform(config.preprocessing)(open_lazily(image_pairs.root / "images" / image))
        with torch.inference_mode():
            expected = student(normalize(pixels[None]))[0].numpy()
        np.testing.assert_allclose(read(outcome)[row], expected, atol=1e-5)


def test_embed__is_read_by_the_lines_of_its_page(image_pairs: Pairs, run_cli: Cli) -> None:
    outcome = run_cli(*EMBED, "--manifest", image_pairs.manifest)
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/search.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("store/embed/<fingerprint>", outcome["path"]), names)
    np.testing.assert_array_equal(names["vectors"], read(outcome))
    assert names["vectors"].dtype == np.float16
    assert tuple(names["images"]["image"].to_pylist()) == image_pairs.images


def test_embed__says_which_student_and_teacher(trained: dict[str, Any], image_pairs: Pairs, run_cli: Cli) -> None:
    outcome = run_cli(*EMBED, "--manifest", image_pairs.manifest)
    config = EmbedConfig.read(Path(outcome["path"]))
    student = StudentConfig.read(Path(trained["path"]))
    assert config.student["teacher"]["identity"] == student.teacher.identity
    assert (config.checkpoint, config.precision, config.normalized) == ("last", "fp32", False)
    assert str(image_pairs.root) not in (Path(outcome["path"]) / "embed.json").read_text()


def test_embed__embeds_equal_images_once(image_pairs: Pairs, run_cli: Cli) -> None:
    shutil.copy(image_pairs.root / "images/003.jpg", image_pairs.root / "images/zzz.jpg")
    outcome = run_cli(*EMBED, "--images", image_pairs.root)
    images = read_images(Path(outcome["path"])).to_pylist()
    assert len(read(outcome)) == outcome["counts"]["distinct_images"] == NUM
    assert outcome["counts"]["images"] == NUM + 1
    assert [each["image"] for each in images if each["image_row"] == 3] == ["images/003.jpg", "images/zzz.jpg"]


def test_embed__runs_once_wherever_the_images_lie(image_pairs: Pairs, run_cli: Cli, tmp_path: Path) -> None:
    first = run_cli(*EMBED, "--images", image_pairs.root)
    moved = image_pairs.root.rename(tmp_path / "moved")
    again = run_cli(*EMBED, "--images", moved)
    assert (again["status"], again["digest"]) == ("unchanged", first["digest"])


def test_embed__leaves_out_what_cannot_be_read_and_says_why(image_pairs: Pairs, run_cli: Cli) -> None:
    for name in ("001.jpg", "copy.jpg"):
        (image_pairs.root / "images" / name).write_bytes(b"no image")
    assert "--max-bad-fraction" in run_cli.fails(*EMBED, "--images", image_pairs.root)
    outcome = run_cli(*EMBED, "--images", image_pairs.root, "--max-bad-fraction", 0.2)
    rejected = read_rejected(Path(outcome["path"]))
    assert [entry.value for entry in rejected] == ["images/001.jpg", "images/copy.jpg"]
    assert all("not a readable image" in entry.reason for entry in rejected)
    images = read_images(Path(outcome["path"])).to_pylist()
    assert len(images) == NUM - 1
    assert {each["image"] for each in images} & {"images/001.jpg", "images/copy.jpg"} == set()
    assert read(outcome)[[each["image_row"] for each in images]].any(axis=1).all()
    assert outcome["counts"]["rejected_images"] == 2


def test_embed__scales_to_unit_length_if_asked(image_pairs: Pairs, run_cli: Cli) -> None:
    plain = read(run_cli(*EMBED, "--manifest", image_pairs.manifest, "--embedding-dtype", "float32"))
    unit = read(run_cli(*EMBED, "--manifest", image_pairs.manifest, "--embedding-dtype", "float32", "--normalize"))
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6)


def test_embed__takes_a_checkpoint(image_pairs: Pairs, trained: dict[str, Any], run_cli: Cli) -> None:
    reference = trained["fingerprint"][:12]
    last = run_cli(*EMBED, "--manifest", image_pairs.manifest)
    first = run_cli(*EMBED, "--manifest", image_pairs.manifest, "--student", f"{reference}@epoch_1")
    assert not np.array_equal(read(first), read(last))
    assert "got 'epoch_9'" in run_cli.fails(
        *EMBED, "--manifest", image_pairs.manifest, "--student", f"{reference}@epoch_9"
    )


def test_embed__takes_over_what_an_earlier_artifact_knows(image_pairs: Pairs, run_cli: Cli) -> None:
    few = make_manifest(image_pairs.root / "few.tsv", image_pairs.images[5:15], image_pairs.captions[5:15])
    known = run_cli(*EMBED, "--manifest", few)
    outcome = run_cli(*EMBED, "--manifest", image_pairs.manifest)
    assert (outcome["counts"]["reused_images"], outcome["counts"]["embedded_images"]) == (10, NUM - 10)
    np.testing.assert_array_equal(read(outcome)[5:15], read(known))
    forced = run_cli(*EMBED, "--manifest", image_pairs.manifest, "--force")
    assert forced["counts"]["embedded_images"] == NUM
    np.testing.assert_allclose(read(forced), read(outcome), atol=1e-2)


def test_embed__needs_no_student_where_all_is_known(
    image_pairs: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_cli(*EMBED, "--manifest", image_pairs.manifest)
    monkeypatch.setattr("stages.embed.run.ImageEmbedder", None)
    assert run_cli(*EMBED, "--images", image_pairs.root)["status"] == "unchanged"  # the same images, by the same names
    outcome = run_cli(*EMBED, "--images", image_pairs.root / "images")
    assert outcome["status"] == "created"
    assert outcome["counts"]["reused_images"] == NUM


def test_embed__reads_a_pack_though_the_images_are_gone(image_pairs: Pairs, run_cli: Cli) -> None:
    of_files = run_cli(*EMBED, "--manifest", image_pairs.manifest)
    packed = run_cli("pack", "--manifest", image_pairs.manifest)
    shutil.rmtree(image_pairs.root / "images")
    outcome = run_cli(*EMBED, "--packed", packed["fingerprint"])
    np.testing.assert_array_equal(read(outcome), read(of_files))
    assert tuple(read_images(Path(outcome["path"]))["image"].to_pylist()) == image_pairs.images


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "One of --manifest and --images must be given; got neither"),
        (("--images", "absent"), "--images must name a folder; got absent"),
    ],
)
def test_embed__refuses_a_source_that_is_none(trained: Any, run_cli: Cli, words: tuple[str, ...], message: str) -> None:
    assert message in run_cli.fails(*EMBED, *words)


def test_embed__keeps_to_the_folder_of_a_manifest(image_pairs: Pairs, run_cli: Cli) -> None:
    outside = make_manifest(image_pairs.root / "outside.tsv", ["../elsewhere.jpg"], ["a cat"])
    assert "--allow-outside" in run_cli.fails(*EMBED, "--manifest", outside)


@pytest.fixture
def many(trained: Any, tmp_path: Path) -> Path:
    """300 distinct images, two shards of them, one of which cannot be read."""
    root = tmp_path / "many"
    root.mkdir()
    for number in range(300):
        path = root / f"{number:03}.jpg"
        draw_image(path, f"hsl({number}, 80%, 50%)", ("circle", "square", "stripe")[number % 3], 32)
    (root / "007.jpg").write_bytes(b"no image")
    return root


MANY = (*EMBED, "--shard-rows", 256, "--batch-size", 64)


def test_embed__goes_on_from_its_last_whole_shard(
    many: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: Path
) -> None:
    undisturbed = Cli(shutil.copytree(store, tmp_path / "undisturbed"))(*MANY, "--images", many)
    real = EmbeddingArray.write
    with monkeypatch.context() as patch:
        patch.setattr(
            EmbeddingArray,
            "write",
            lambda self, shard, values: power_cut() if shard.start else real(self, shard, values),
        )
        with pytest.raises(RuntimeError, match="power cut"):
            run_cli(*MANY, "--images", many)
    outcome = run_cli(*MANY, "--images", many)
    assert outcome["counts"]["resumed_images"] == 256
    assert outcome["counts"]["embedded_images"] == 300 - 256
    assert outcome["counts"]["rejected_images"] == 1  # of the shard that stood
    assert outcome["digest"] == undisturbed["digest"]


def test_embed__refuses_an_image_that_changes_while_it_runs(
    image_pairs: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, path = EmbedConfig.write, image_pairs.root / "images/005.jpg"

    def then_change(self: EmbedConfig, root: Path) -> None:
        draw_image(path, "red", "circle", 50)
        real(self, root)

    monkeypatch.setattr(EmbedConfig, "write", then_change)
    message = run_cli.fails(*EMBED, "--images", image_pairs.root)
    assert f"{path} must be as it was when its bytes were hashed; it has changed." in message
    monkeypatch.undo()
    assert run_cli(*EMBED, "--images", image_pairs.root)["counts"]["rejected_images"] == 0


def test_embed__is_repaired_by_verify(many: Path, run_cli: Cli) -> None:
    outcome = run_cli(*MANY, "--images", many)
    shard = Path(outcome["path"]) / "embeddings.zarr/c/1/0"
    shard.write_bytes(shard.read_bytes()[:-9] + b"unwritten")
    result = run_cli.run("verify", "--repair")
    assert "made whole" in result.output
    assert run_cli(*MANY, "--images", many)["digest"] == outcome["digest"]
    assert run_cli.run("verify").exit_code == 0
