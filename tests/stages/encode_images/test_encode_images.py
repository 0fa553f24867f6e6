"""encode-images, end to end: every image goes once through the backbone, whatever happens on the way."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from workbench import FEATURES, Cli, Pairs, draw_image, make_manifest, power_cut

from data_schemas.embedding_array import FEATURE_KIND, EmbeddingArray
from data_schemas.images.embedded_images import read_images
from data_schemas.images.image_features import FeaturesConfig
from data_schemas.pair_index import read_rejected
from pipeline.store.store import Store
from stages.components.backbones.frozen import load_backbone
from stages.components.images.lazy_image import open_lazily
from stages.components.images.transforms import EvalTransform, Normalize

FP32 = ("--precision", "fp32")
NUM = 24


@pytest.fixture
def encode(run_cli: Cli, backbone_weights: Path) -> Callable[..., dict[str, Any]]:
    return lambda *words: run_cli(*FEATURES, "--init-from", backbone_weights, *words)


@pytest.fixture
def fails(run_cli: Cli, backbone_weights: Path) -> Callable[..., str]:
    return lambda *words: run_cli.fails(*FEATURES, "--init-from", backbone_weights, *words)


@pytest.fixture
def pairs(pairs_folder: Callable[[int, int], Pairs]) -> Pairs:
    return pairs_folder(NUM, 40)


def read(outcome: dict[str, Any]) -> np.ndarray:
    features = EmbeddingArray.open(Path(outcome["path"]), kind=FEATURE_KIND)
    return features.read(0, features.rows)


def backbone_folder(outcome: dict[str, Any]) -> Path:
    digest = FeaturesConfig.read(Path(outcome["path"])).backbone_digest
    store = Store(Path(outcome["path"]).parents[1])
    return next(each.path for each in store.artifacts("backbone") if each.record.digest == digest)


def test_encode_images__gives_what_the_backbone_makes_of_each_image_alone(encode: Any, pairs: Pairs) -> None:
    outcome = encode("--manifest", pairs.manifest, *FP32, "--feature-dtype", "float32")
    device = torch.device("cpu")
    network, config = load_backbone(backbone_folder(outcome), device=device)
    normalize = Normalize(config.preprocessing, device)
    images = read_images(Path(outcome["path"]))
    assert tuple(images["image"].to_pylist()) == pairs.images
    assert None not in images["sha256"].to_pylist()
    for row, image in zip(images["image_row"].to_pylist(), images["image"].to_pylist(), strict=True):
        pixels = EvalTransform(config.preprocessing)(open_lazily(pairs.root / image))
        with torch.inference_mode():
            expected = network(normalize(pixels[None]))[0].numpy()
        np.testing.assert_allclose(read(outcome)[row], expected, atol=1e-4, rtol=1e-4)


def test_encode_images__says_which_backbone_and_uses_it(encode: Any, pairs: Pairs, run_cli: Cli) -> None:
    outcome = encode("--manifest", pairs.manifest, *FP32)
    config = FeaturesConfig.read(Path(outcome["path"]))
    assert config.backbone is not None
    assert (config.backbone.name, config.backbone.preprocessing.image_size) == ("squeezenet1_1", 32)
    assert (config.precision, config.views, config.augmentation) == ("fp32", 1, "none")
    assert read(outcome).shape == (NUM, config.backbone.feature_dim)
    folder = backbone_folder(outcome)
    run_cli.run("gc", "--yes")
    assert folder.is_dir()
    assert run_cli.run("verify").exit_code == 0


def test_encode_images__computes_a_new_image_alone(encode: Any, pairs: Pairs) -> None:
    first = encode("--manifest", pairs.manifest)
    assert encode("--manifest", pairs.manifest)["status"] == "unchanged"
    draw_image(pairs.root / "images/zzz.jpg", "pink", "circle", 40)
    shutil.copy(pairs.root / pairs.images[3], pairs.root / "images/copy.jpg")
    outcome = encode("--images", pairs.root / "images")
    assert outcome["counts"]["images"] == NUM + 2
    assert (outcome["counts"]["encoded_rows"], outcome["counts"]["reused_rows"]) == (1, NUM)
    np.testing.assert_array_equal(read(outcome)[:4], read(first)[:4])
    forced = encode("--images", pairs.root / "images", "--force")
    assert forced["counts"]["encoded_rows"] == NUM + 1


@pytest.mark.parametrize("other", [("--image-size", 40), ("--feature-dtype", "float32"), ("--precision", "bf16")])
def test_encode_images__takes_over_nothing_of_another_recipe(
    encode: Any, pairs: Pairs, other: tuple[object, ...]
) -> None:
    encode("--manifest", pairs.manifest, *FP32)
    outcome = encode("--manifest", pairs.manifest, *FP32, *other)
    assert outcome["counts"]["encoded_rows"] == NUM


def test_encode_images__views_are_of_an_images_bytes_and_the_seed(encode: Any, pairs: Pairs) -> None:
    plain = encode("--manifest", pairs.manifest, *FP32)
    light = ("--augmentation", "light", *FP32)
    two = encode("--manifest", pairs.manifest, "--views", 2, *light)
    assert (two["counts"]["encoded_rows"], two["counts"]["reused_rows"]) == (NUM, NUM)
    rows = read(two).reshape(NUM, 2, -1)
    np.testing.assert_array_equal(rows[:, 0], read(plain))
    assert (rows[:, 1] != rows[:, 0]).any(axis=1).all()
    backwards = make_manifest(pairs.root / "back.tsv", pairs.images[::-1], pairs.captions[::-1])
    three = encode("--manifest", backwards, "--views", 3, *light)
    assert three["counts"]["encoded_rows"] == NUM
    forced = encode("--manifest", backwards, "--views", 3, *light, "--force")
    assert forced["counts"]["encoded_rows"] == 3 * NUM
    np.testing.assert_allclose(read(forced), read(three), atol=2e-2)
    np.testing.assert_array_equal(read(three).reshape(NUM, 3, -1)[::-1, :2], rows)
    other = encode("--manifest", pairs.manifest, "--views", 2, *light, "--seed", 1)
    assert other["counts"]["encoded_rows"] == NUM
    assert not np.array_equal(read(other), read(two))


def test_encode_images__measures_what_fewer_bits_change(encode: Any, pairs: Pairs) -> None:
    outcome = encode("--manifest", pairs.manifest, "--precision", "bf16")
    metrics = outcome["metrics"]
    assert 0.99 < metrics["fp32_cosine_min"] <= metrics["fp32_cosine_mean"] <= 1.0001
    assert metrics["fp32_cosine_images"] == 16
    assert "metrics" not in encode("--manifest", pairs.manifest, *FP32)


def test_encode_images__leaves_out_what_cannot_be_read_and_says_why(
    encode: Any, fails: Any, pairs: Pairs, run_cli: Cli
) -> None:
    (pairs.root / "images/001.jpg").write_bytes(b"no image")
    words = ("--images", pairs.root / "images", "--views", 2, "--augmentation", "crop")
    assert "--max-bad-fraction" in fails(*words)
    outcome = encode(*words, "--max-bad-fraction", 0.2)
    [rejected] = read_rejected(Path(outcome["path"]))
    assert rejected.value == "001.jpg"
    assert "not a readable image" in rejected.reason
    images = read_images(Path(outcome["path"])).to_pylist()
    assert "001.jpg" not in [each["image"] for each in images]
    zeros = ~read(outcome).any(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(zeros), [2, 3])
    assert run_cli.run("verify").exit_code == 0


def test_encode_images__names_the_image_that_overflows(
    pairs: Pairs, run_cli: Cli, backbone_weights: Path, tmp_path: Path
) -> None:
    weights = safetensors.torch.load_file(backbone_weights)
    large = {name: value * 1e8 if "12.expand3x3" in name else value for name, value in weights.items()}
    path = tmp_path / "large.safetensors"
    safetensors.torch.save_file(large, path)
    words = (*FEATURES, "--init-from", path, "--manifest", pairs.manifest, *FP32)
    message = run_cli.fails(*words)
    assert "--feature-dtype must hold the backbone's numbers; float16 cannot hold" in message
    assert "images/0" in message
    assert run_cli(*words, "--feature-dtype", "float32")["status"] == "created"


def test_encode_images__reads_a_pack_though_the_images_are_gone(encode: Any, pairs: Pairs, run_cli: Cli) -> None:
    of_files = encode("--manifest", pairs.manifest, *FP32)
    packed = run_cli("pack", "--manifest", pairs.manifest)
    shutil.rmtree(pairs.root / "images")
    outcome = encode("--packed", packed["fingerprint"], *FP32)
    np.testing.assert_array_equal(read(outcome), read(of_files))
    assert tuple(read_images(Path(outcome["path"]))["image"].to_pylist()) == pairs.images


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--backbone", ""), "One of --backbone, --student and --vectors must be given; got none"),
        (
            ("--vectors", "absent"),
            "One of --backbone, --student and --vectors must be given; got --backbone and --vectors",
        ),
        (("--views", 2), "--views and --augmentation must go together; got 2 and none"),
        (("--augmentation", "crop"), "--views and --augmentation must go together; got 1 and crop"),
        (("--init-from", "absent"), "--init-from must name a file of weights; got absent"),
    ],
)
def test_encode_images__refuses_options_that_do_not_go_together(
    fails: Any, pairs: Pairs, words: tuple[object, ...], message: str
) -> None:
    assert message in fails("--manifest", pairs.manifest, *words)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """300 distinct images, two shards of them, one of which cannot be read."""
    root = tmp_path / "many"
    root.mkdir()
    for number in range(300):
        draw_image(root / f"{number:03}.jpg", f"hsl({number}, 80%, 50%)", ("circle", "square")[number % 2], 32)
    (root / "007.jpg").write_bytes(b"no image")
    return root


def test_encode_images__goes_on_from_its_last_whole_shard_and_is_repaired(
    many: Path, encode: Any, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, backbone_weights: Path, tmp_path: Path
) -> None:
    words = ("--images", many, "--shard-rows", 256, "--batch-size", 64, *FP32)
    undisturbed = Cli(tmp_path / "undisturbed")(*FEATURES, "--init-from", backbone_weights, *words)
    real = EmbeddingArray.write
    with monkeypatch.context() as patch:
        patch.setattr(
            EmbeddingArray,
            "write",
            lambda self, shard, values: power_cut() if shard.start else real(self, shard, values),
        )
        with pytest.raises(RuntimeError, match="power cut"):
            encode(*words)
    outcome = encode(*words)
    assert (outcome["counts"]["resumed_rows"], outcome["counts"]["encoded_rows"]) == (256, 44)
    assert outcome["counts"]["rejected_images"] == 1  # of the shard that stood
    assert outcome["digest"] == undisturbed["digest"]
    shard = Path(outcome["path"]) / "features.zarr/c/1/0"
    shard.write_bytes(shard.read_bytes()[:-9] + b"unwritten")
    assert "made whole" in run_cli.run("verify", "--repair").output
    assert encode(*words)["digest"] == outcome["digest"]


def test_encode_images__keeps_no_shard_of_another_precision(
    many: Path, encode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--images", many, "--shard-rows", 256)
    real = EmbeddingArray.write
    with monkeypatch.context() as patch:
        patch.setattr("stages.encode_images.run.choose_precision", lambda *_: "bf16")
        patch.setattr(
            EmbeddingArray,
            "write",
            lambda self, shard, values: power_cut() if shard.start else real(self, shard, values),
        )
        with pytest.raises(RuntimeError, match="power cut"):
            encode(*words)
    monkeypatch.setattr("stages.encode_images.run.choose_precision", lambda *_: "fp32")
    assert encode(*words)["counts"]["resumed_rows"] == 0


def test_encode_images__is_foretold(encode: Any, pairs: Pairs) -> None:
    words = ("--manifest", pairs.manifest)
    asked = encode(*words, "--dry-run")["estimate"]
    assert asked["counts"] == {"images": NUM, "distinct_images": NUM, "encoded_rows": NUM}
    encode(*words)
    draw_image(pairs.root / "images/zzz.jpg", "pink", "circle", 40)
    asked = encode("--images", pairs.root, "--dry-run")["estimate"]
    done = encode("--images", pairs.root)
    assert asked["counts"]["encoded_rows"] == done["counts"]["encoded_rows"] == 1
    size = (Path(done["path"]) / "features.zarr/c/0/0").stat().st_size
    assert asked["bytes"] == pytest.approx(size, rel=0.1)


def test_images_parquet__is_in_the_order_of_the_source(encode: Any, pairs: Pairs) -> None:
    outcome = encode("--manifest", pairs.manifest)
    table = pq.read_table(Path(outcome["path"]) / "images.parquet")
    assert table["image_row"].to_pylist() == list(range(NUM))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--backbone", "timm:resnett18"), "timm:NAME must name a model of timm; got 'resnett18'"),
        (("--backbone", "squeezenet1_1", "--pooling", "cls"), "--pooling"),
    ],
)
def test_encode_images__refuses_a_backbone_before_a_run_begins(
    words: tuple[object, ...], message: str, pairs: Pairs, run_cli: Cli, backbone_weights: Path
) -> None:
    given = ("--manifest", pairs.manifest, "--init-from", backbone_weights, "--device", "cpu", *words)
    assert message in run_cli.fails("encode-images", *given, "--dry-run")
