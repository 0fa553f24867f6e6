"""A head trained on cached features: the same loop, the same guarantees, and no image opened."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from features import make_features
from numpy.typing import NDArray
from workbench import Cli, Pairs, at_step, power_cut

from data_schemas.artifact_record import ArtifactRecord
from data_schemas.images.student_checkpoint import WEIGHTS_NAME, HeadConfig, StudentConfig
from data_schemas.manifest import Rejection
from data_schemas.pair_index import read_rejected
from pipeline.store.store import Artifact, Store
from stages.components.student.heads import build_feature_head
from stages.distill.data.training_pairs import TrainingPairs

DIM = 10
SAVE_EACH_STEP = ("--save-every-minutes", 1e-9)
TRAIN = (
    "distill", "--preset", "plain", "--batch-size", 8, "--warmup-steps", 0, "--device", "cpu", "--precision", "fp32",
    "--lr", 1e-2,
)  # fmt: skip
# Dropout, noise, mixing, draws by clusters, a mean of weights and a loss with state: all that a resumed run has to
# take up again.
ALL = (
    *TRAIN, "--epochs", 2, "--head", "mlp", "--head-width", 12, "--head-dropout", 0.3, "--feature-noise", 0.5,
    "--feature-mixup", 0.4, "--ema-decay", 0.9, "--validation-fraction", 0.2, "--accumulate-steps", 2,
    "--balance", 0.5, "--balance-prototypes", 3, "--loss", "infonce=1", "--loss", "structure=1", "--loss", "siglip=0.1",
    "--loss-option", "infonce.merge-images=true",
)  # fmt: skip


def values_of(pairs: Pairs, *, views: int = 1, seed: int = 0) -> NDArray[np.float16]:
    """Features from which the caption can be told: a direction of each, and a little noise; the last never varies."""
    generator = np.random.default_rng(seed)
    directions = {caption: generator.normal(size=DIM) for caption in sorted(set(pairs.captions))}
    rows = np.repeat([directions[caption] for caption in pairs.captions], views, axis=0)
    values = 3 + 2 * (rows + 0.05 * generator.normal(size=rows.shape))
    values[:, -1] = 0.7
    return values.astype(np.float16)


@pytest.fixture
def features(encoded: Pairs, store: Path) -> Artifact:
    return make_features(store, encoded.images, values_of(encoded))


@pytest.fixture
def train(run_cli: Cli, features: Artifact) -> Callable[..., dict[str, Any]]:
    return lambda *words: run_cli(*words, "--features", features.path)


def weights_of(outcome: dict[str, Any]) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(Path(outcome["path"]) / WEIGHTS_NAME)


def metrics_of(outcome: dict[str, Any]) -> list[dict[str, float]]:
    lines = (Path(outcome["path"]) / "logs" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("head", ["linear", "mlp", "gated", "residual"])
def test_distill__trains_a_head_that_finds_held_out_images(head: str, train: Callable[..., dict[str, Any]]) -> None:
    words = ("--epochs", 20, "--validation-fraction", 0.3, "--log-every-steps", 1, "--weight-decay", 0)
    outcome = train(*TRAIN, *words, "--head", head)
    lines = metrics_of(outcome)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    assert [line for line in lines if "validation/mean_recall" in line][-1]["validation/images"] >= 2
    tensors = weights_of(outcome)
    assert all(name.startswith("head.") and tensor.isfinite().all() for name, tensor in tensors.items())


def test_distill__keeps_the_statistics_of_the_images_it_trained_on(
    train: Callable[..., dict[str, Any]], encoded: Pairs
) -> None:
    tensors = weights_of(train(*TRAIN, "--epochs", 1))
    values = values_of(encoded).astype(np.float64)
    std = values.std(axis=0)
    assert std[-1] == 0
    std[-1] = 1  # it is only centred
    np.testing.assert_allclose(tensors["head.feature_mean"], values.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(tensors["head.feature_std"], std, rtol=1e-6)


def test_distill__describes_a_head_without_backbone(train: Callable[..., dict[str, Any]], features: Artifact) -> None:
    outcome = train(*TRAIN, "--epochs", 1, "--head", "gated", "--head-width", 6, "--head-dropout", 0.1)
    config = StudentConfig.read(Path(outcome["path"]))
    assert config.head == HeadConfig("gated", width=6, dropout=0.1)
    assert (config.backbone, config.backbone_digest, config.embedding_dim) == ("", "", 16)
    record = ArtifactRecord.read(Path(outcome["path"]))
    assert record.inputs["features"].digest == features.record.digest
    assert features.record.digest in record.uses
    assert (record.params["student"], record.params["augmentation"]) == ("", "none")
    head = build_feature_head(config.head, feature_dim=DIM, embedding_dim=16)
    head.load_state_dict({name.removeprefix("head."): tensor for name, tensor in weights_of(outcome).items()})


@pytest.mark.parametrize(("step", "words"), [(1, SAVE_EACH_STEP), (2, ()), (3, SAVE_EACH_STEP)])
def test_distill__ends_with_the_same_bytes_when_interrupted_and_resumed(
    step: int, words: tuple[object, ...], train: Callable[..., dict[str, Any]], features: Artifact, tmp_path: Path
) -> None:
    other = Cli(shutil.copytree(features.path.parents[1], tmp_path / "other"))
    with at_step(step, power_cut), pytest.raises(RuntimeError, match="power cut"):
        train(*ALL, *words)
    resumed, undisturbed = train(*ALL), other(*ALL, "--features", features.path)
    assert (resumed["fingerprint"], resumed["digest"]) == (undisturbed["fingerprint"], undisturbed["digest"])


def test_distill__gives_the_same_bytes_from_a_mapped_table(
    train: Callable[..., dict[str, Any]], features: Artifact, tmp_path: Path
) -> None:
    other = Cli(shutil.copytree(features.path.parents[1], tmp_path / "other"))
    mapped = other(*ALL, "--features", features.path, "--targets-placement", "mapped")
    assert mapped["digest"] == train(*ALL)["digest"]
    assert train(*ALL, "--targets-placement", "mapped")["status"] == "unchanged"


@pytest.mark.parametrize(
    "words",
    [
        ("--feature-noise", 0.5),
        ("--feature-mixup", 0.5),
        ("--head", "residual"),
        ("--seed", 1),
        ("--target-smoothing", 0.5),
    ],
)
def test_distill__gives_another_student_for_other_options(
    words: tuple[object, ...], train: Callable[..., dict[str, Any]]
) -> None:
    plain, other = train(*TRAIN, "--epochs", 1), train(*TRAIN, "--epochs", 1, *words)
    assert plain["fingerprint"] != other["fingerprint"]
    assert plain["digest"] != other["digest"]
    assert train(*TRAIN, "--epochs", 1, "--augmentation", "none")["status"] == "unchanged"


def test_distill__rejects_pairs_whose_image_has_no_features(encoded: Pairs, run_cli: Cli, store: Path) -> None:
    rejected = [Rejection(row=3, reason="truncated image", value=encoded.images[3])]
    features = make_features(store, encoded.images[:-1], values_of(encoded)[:-1], rejected=rejected)
    words = (*TRAIN, "--epochs", 1, "--features", features.path)
    message = run_cli.fails(*words)
    assert "of 24 pairs 2 have no features, and at most 0 may (--max-bad-fraction)" in message
    outcome = run_cli(*words, "--max-bad-fraction", 0.1)
    assert outcome["counts"]["rejected_images"] == 2
    assert outcome["counts"]["training_examples"] == 22
    reasons = {entry.value: entry.reason for entry in read_rejected(Path(outcome["path"]))}
    assert reasons == {encoded.images[3]: "truncated image", encoded.images[-1]: "no features of it"}


def test_distill__refuses_features_of_other_images_with_both_digests(encoded: Pairs, run_cli: Cli, store: Path) -> None:
    features = make_features(store, [f"elsewhere/{path}" for path in encoded.images], values_of(encoded))
    message = run_cli.fails(*TRAIN, "--features", features.path)
    [embeddings] = [ArtifactRecord.read(path) for path in (store / "encode-teacher").glob("[!.]*")]
    assert "of 24 pairs 24 have no features" in message
    assert features.record.digest[:12] in message
    assert embeddings.digest[:12] in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--student", "resnet50"), "--student must be left out with --features"),
        (("--image-size", 64), "--image-size must be left out with --features"),
        (("--augmentation", "light"), "--augmentation must be left out with --features"),
        (("--pretrained", "torchvision"), "--pretrained must be left out with --features"),
        (("--init-from", "weights.pt"), "--init-from must be left out with --features"),
        (("--packed", "0123"), "--packed must be left out with --features"),
        (("--image-root", "/"), "--image-root must be left out with --features"),
        (("--freeze-backbone",), "--freeze-backbone must be left out with --features"),
        (("--projection-layers", 2), "--projection-layers must be left out with --features"),
        (("--compile",), "--compile must be left out with --features"),
        (("--checkpoint-gradients",), "--checkpoint-gradients must be left out with --features"),
        (("--head-width", 5), "--head-width and --head-dropout must come with a --head that has a hidden layer"),
    ],
)
def test_distill__refuses_options_that_features_have_no_use_for(
    words: tuple[object, ...], message: str, run_cli: Cli, features: Artifact
) -> None:
    assert message in run_cli.fails(*TRAIN, "--features", features.path, *words)


@pytest.mark.parametrize(
    "words",
    [("--head", "mlp"), ("--head-width", 5), ("--head-dropout", 0.5), ("--feature-noise", 1), ("--feature-mixup", 1)],
)
def test_distill__refuses_options_of_features_without_any(
    words: tuple[object, ...], run_cli: Cli, encoded: Pairs
) -> None:
    message = run_cli.fails(*TRAIN, *words)
    assert f"{words[0]} must come with --features, the cached features" in message


def test_distill__refuses_an_objective_of_features_without_any(run_cli: Cli, encoded: Pairs) -> None:
    message = run_cli.fails(*TRAIN, "--loss", "infonce=1", "--loss", "structure=10")
    assert "--loss structure must come with --features, whose likeness it keeps; got none." in message


def test_distill__refuses_prototypes_of_a_balance_without_one(
    train: Callable[..., dict[str, Any]], run_cli: Cli
) -> None:
    assert "--balance-prototypes must come with --balance" in run_cli.fails(*TRAIN, "--balance-prototypes", 8)


def test_distill__draws_by_the_prototypes_that_are_named(train: Callable[..., dict[str, Any]], run_cli: Cli) -> None:
    prototypes = run_cli("prototypes", "--num-prototypes", 3)
    words = (*TRAIN, "--epochs", 2, "--balance", 1)
    named, made = train(*words, "--prototypes", prototypes["path"]), train(*words, "--balance-prototypes", 4)
    assert ArtifactRecord.read(Path(named["path"])).inputs["prototypes"].digest == prototypes["digest"]
    assert prototypes["digest"] in ArtifactRecord.read(Path(named["path"])).uses
    assert named["counts"]["steps"] == made["counts"]["steps"] == 6
    plain = train(*TRAIN, "--epochs", 2)
    assert len({each["digest"] for each in (named, made, plain)}) == 3


def test_distill__tells_objectives_which_pairs_show_the_same_image(
    train: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*TRAIN, "--epochs", 1, "--loss-option", "infonce.merge-images=true")
    apart = weights_of(train(*words))
    monkeypatch.setattr(TrainingPairs, "image_numbers", lambda pairs: np.arange(pairs.examples.num) // 12)
    together = weights_of(train(*words, "--force"))
    assert not all(torch.allclose(tensor, together[name]) for name, tensor in apart.items())


def test_distill__gathers_near_captions_in_the_same_batch(
    train: Callable[..., dict[str, Any]], features: Artifact, tmp_path: Path
) -> None:
    words = (*TRAIN, "--epochs", 2, "--neighbour-batches", 0.5)
    other = Cli(shutil.copytree(features.path.parents[1], tmp_path / "other"))
    with at_step(2, power_cut), pytest.raises(RuntimeError, match="power cut"):
        train(*words, *SAVE_EACH_STEP)
    resumed, undisturbed = train(*words), other(*words, "--features", features.path)
    assert resumed["digest"] == undisturbed["digest"]
    [neighbours] = Store(features.path.parents[1]).artifacts("neighbours")
    assert neighbours.record.digest in ArtifactRecord.read(Path(resumed["path"])).uses
    assert resumed["digest"] != train(*TRAIN, "--epochs", 2)["digest"]


def test_distill__refuses_to_balance_and_to_gather_at_once(run_cli: Cli, encoded: Pairs) -> None:
    message = run_cli.fails(*TRAIN, "--balance", 1, "--neighbour-batches", 0.5)
    assert "Only one of --balance and --neighbour-batches must be given" in message


def test_distill__names_features_that_are_not_there(run_cli: Cli, encoded: Pairs) -> None:
    message = run_cli.fails(*TRAIN, "--features", "0123")
    assert "--features must name an artifact of encode-images" in message


def test_distill__refuses_damaged_features(run_cli: Cli, features: Artifact) -> None:
    file = features.path / "features.zarr/c/0/0"
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    assert "features.zarr/c/0/0" in run_cli.fails(*TRAIN, "--features", features.path)


def test_distill__draws_a_view_each_epoch_and_validates_on_the_plain_one(
    encoded: Pairs, run_cli: Cli, store: Path
) -> None:
    values = values_of(encoded, views=3)
    features = make_features(store, encoded.images, values, views=3)
    words = (*TRAIN, "--epochs", 2, "--validation-fraction", 0.3, "--features", features.path)
    outcome = run_cli(*words)
    assert outcome["status"] == "created"
    values[1::3] += 1  # of another view than the plain one
    other = run_cli(*words, "--features", make_features(store, encoded.images, values, views=3).path)
    assert other["digest"] != outcome["digest"]


def test_distill__tells_what_it_would_do_and_why_it_runs(
    run_cli: Cli, features: Artifact, train: Callable[..., dict[str, Any]]
) -> None:
    words = (*TRAIN, "--epochs", 3, "--features", features.path)
    told = json.loads(run_cli.run(*words, "--dry-run", "--json").stdout)
    told = told["estimate"]
    assert told["counts"] == {"pairs": 24, "images": 24, "examples": 24, "steps": 9}
    outcome = train(*TRAIN, "--epochs", 3)
    weights = sum(tensor.nbytes for tensor in weights_of(outcome).values())
    assert told["bytes"] == 4 * weights
    why = run_cli.run("why", *words, "--head", "mlp").stdout
    assert "--head: (absent) -> mlp" in why
