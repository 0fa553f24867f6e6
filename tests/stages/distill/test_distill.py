"""Stage two from the command line: trained without the teacher, resumed to the same bytes, true about what it drops."""

import itertools
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from workbench import DISTILL, SMALL, Cli, Pairs, at_step, power_cut

import stages.distill.run
from data_schemas.images.student_checkpoint import WEIGHTS_NAME, StudentConfig
from data_schemas.pair_index import read_rejected
from stages.components.loading.batch import Batch
from stages.components.loading.image_loader import NoBatchError
from stages.components.student.weights import load_student
from stages.distill.data.example_images import ExampleImages

SAVE_EACH_STEP = ("--save-every-minutes", 1e-9)
RESNET = ("distill", *SMALL, "--precision", "fp32", "--student", "resnet18", "--epochs", 2, "--lr", 1e-3)


def weights_of(outcome: dict[str, Any]) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(Path(outcome["path"]) / WEIGHTS_NAME)


def metrics_of(outcome: dict[str, Any]) -> list[dict[str, float]]:
    lines = (Path(outcome["path"]) / "logs" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_same(outcome: dict[str, Any], undisturbed: dict[str, Any]) -> None:
    assert outcome["status"] == "created"
    for name, tensor in weights_of(undisturbed).items():
        torch.testing.assert_close(weights_of(outcome)[name], tensor, rtol=0, atol=0)
    assert (outcome["fingerprint"], outcome["digest"]) == (undisturbed["fingerprint"], undisturbed["digest"])


@pytest.fixture
def own_images(encoded: Pairs, tmp_path: Path) -> Path:
    """Return a copy of the images that a test may spoil."""
    return shutil.copytree(encoded.root, tmp_path / "own")


@pytest.fixture(scope="module")
def resnet(encoded_session: tuple[Path, Pairs], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a trained resnet18; to import the teacher on the way is an error."""
    store = shutil.copytree(encoded_session[0], tmp_path_factory.mktemp("resnet") / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "stages.components.teacher.teacher", None)
        patch.setitem(sys.modules, "sentence_transformers", None)
        return Cli(store)(*RESNET, "--loss", "simreg=1", "--log-every-steps", 1)


def test_distill__trains_without_the_teacher_and_its_loss_falls(resnet: dict[str, Any]) -> None:
    lines = metrics_of(resnet)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert {"loss", "simreg", "grad_norm", "lr", "images_per_s", "data_wait_share", "epoch"} <= lines[0].keys()


def test_distill__leaves_a_student_that_loads_by_its_own_folder(resnet: dict[str, Any]) -> None:
    root = Path(resnet["path"])
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert {
        "student.safetensors",
        "student.json",
        "rejected.parquet",
        "checkpoints/epoch_1.safetensors",
        "checkpoints/epoch_2.safetensors",
        "logs/metrics.jsonl",
        "artifact.json",
    } <= files
    assert not any(path.startswith("state/") for path in files)
    config = StudentConfig.read(root)
    assert (config.backbone, config.embedding_dim, config.preprocessing.image_size) == ("resnet18", 16, 32)
    assert (config.losses, config.teacher.dim) == ({"simreg": 1.0}, 16)
    student = load_student(config, root / WEIGHTS_NAME, device=torch.device("cpu"))
    assert not student.training
    assert student(torch.zeros(1, 3, 32, 32)).shape == (1, 16)
    last = safetensors.torch.load_file(root / "checkpoints/epoch_2.safetensors")
    assert all(torch.equal(tensor, last[name]) for name, tensor in weights_of(resnet).items())
    assert resnet["counts"] == {
        "pairs": 24,
        "training_examples": 24,
        "validation_pairs": 0,
        "rejected_images": 0,
        "rejected_reasons": {},
        "zero_captions_left_out": 0,
        "epochs": 2,
        "steps": 6,
    }


def test_distill__goes_on_in_mid_epoch_with_batch_statistics(encoded: Pairs, run_cli: Cli, tmp_path: Path) -> None:
    words = (*DISTILL, "--student", "shufflenet_v2_x0_5")
    other = Cli(shutil.copytree(run_cli.store, tmp_path / "other"))
    with at_step(2, power_cut), pytest.raises(RuntimeError, match="power cut"):
        run_cli(*words, *SAVE_EACH_STEP)
    resumed = run_cli(*words)
    assert any(name.endswith("running_mean") for name in weights_of(resumed))
    assert_same(resumed, other(*words))


def test_distill__changes_nothing_when_asked_again(trained: dict[str, Any], run_cli: Cli) -> None:
    again = run_cli(*DISTILL, "--log-every-steps", 1, "--targets-placement", "mapped")
    assert again["status"] == "unchanged"
    assert again["digest"] == trained["digest"]


def test_distill__runs_again_for_another_learning_rate(trained: dict[str, Any], run_cli: Cli) -> None:
    other = run_cli(*DISTILL, "--lr", 2e-3, "--epochs", 1)
    assert other["status"] == "created"
    assert other["fingerprint"] != trained["fingerprint"]
    why = run_cli.run("why", *DISTILL, "--lr", 3e-3, "--epochs", 1).stdout
    assert "--lr: 0.002 -> 0.003" in why


@pytest.mark.parametrize(
    ("step", "words"),
    [(2, SAVE_EACH_STEP), (3, ()), (4, ()), (5, SAVE_EACH_STEP), (0, ())],
    ids=["mid-epoch", "after an epoch", "back to an epoch", "last step", "before the first"],
)
def test_distill__ends_with_the_same_bytes_when_interrupted_and_resumed(
    step: int, words: tuple[object, ...], encoded: Pairs, run_cli: Cli, undisturbed: Any, store: Path
) -> None:
    with at_step(step, power_cut), pytest.raises(RuntimeError, match="power cut"):
        run_cli(*DISTILL, *words)
    assert not list((store / "distill").glob("[!.]*"))
    assert_same(run_cli(*DISTILL), undisturbed.outcome)


def test_distill__ends_with_the_same_bytes_whichever_file_of_the_draft_is_lost(
    encoded: Pairs, run_cli: Cli, undisturbed: Any, store: Path, tmp_path: Path
) -> None:
    with at_step(4, power_cut), pytest.raises(RuntimeError, match="power cut"):
        run_cli(*DISTILL, *SAVE_EACH_STEP, "--log-every-steps", 1)
    [draft] = (store / "distill").glob(".draft-*")
    files = sorted(path.relative_to(store) for path in draft.rglob("*") if path.is_file())
    assert {path.name for path in files} == {
        "journal.jsonl",
        "student.json",
        "epoch_1.safetensors",
        "metrics.jsonl",
        "latest.safetensors",
    }
    for number, (file, damage) in enumerate(itertools.product(files, (Path.unlink, _truncate))):
        other = Cli(shutil.copytree(store, tmp_path / str(number)))
        damage(other.store / file)
        outcome = other(*DISTILL, "--log-every-steps", 1)
        assert outcome["digest"] == undisturbed.outcome["digest"], (file, damage)
        steps = [line["step"] for line in metrics_of(outcome)]
        assert steps == sorted(set(steps))
        shutil.rmtree(other.store)


def test_run__begins_nothing_more_after_a_training_that_was_asked_to_stop(
    encoded: Pairs, store: Path, run_cli: Cli, tmp_path: Path
) -> None:
    options = (
        "{image-size: 32, batch-size: 8, warmup-steps: 0, workers: 0, device: cpu, student: squeezenet1_1, epochs: 2}"
    )
    (tmp_path / "run.yaml").write_text(f"distill: {options}\nsweep: {{distill: {{seed: [0, 1]}}}}\n")
    with at_step(1, lambda: signal.raise_signal(signal.SIGINT)):
        message = run_cli.stops("run", tmp_path / "run.yaml")
    assert "distill was asked to stop and did" in message
    assert len(list((store / "distill").glob(".draft-*"))) == 1


def test_run__begins_nothing_more_where_a_training_is_asked_to_stop_at_its_last_step(
    encoded: Pairs, store: Path, run_cli: Cli, tmp_path: Path
) -> None:
    options = (
        "{image-size: 32, batch-size: 8, warmup-steps: 0, workers: 0, device: cpu, student: squeezenet1_1, epochs: 1}"
    )
    (tmp_path / "run.yaml").write_text(f"distill: {options}\nsweep: {{distill: {{seed: [0, 1]}}}}\n")
    with at_step(2, lambda: signal.raise_signal(signal.SIGTERM)):
        message = run_cli.stops("run", tmp_path / "run.yaml")
    assert "Asked to stop, and did, before distill began. Run the same command again" in message
    assert len(list((store / "distill").glob("[!.]*"))) == 1  # it was whole


def test_distill__saves_where_no_batch_comes_and_a_stop_is_asked_for(
    encoded: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ExampleImages.batches

    def stalling(*args: Any, **options: Any) -> Iterator[Batch]:
        yield next(iter(plain(*args, **options)))
        signal.raise_signal(signal.SIGTERM)
        raise NoBatchError("Asked to stop, and did, while no batch of images came for 10 s.")

    with monkeypatch.context() as patch:
        patch.setattr(ExampleImages, "batches", stalling)
        message = run_cli.stops(*DISTILL)
    assert "distill was asked to stop and did, after step 1 of 6." in message
    assert "going on from step 1" in run_cli.run(*DISTILL).stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_distill__saves_and_says_so_when_asked_to_stop(
    number: signal.Signals, encoded: Pairs, run_cli: Cli, undisturbed: Any
) -> None:
    before = signal.getsignal(number)
    with at_step(1, lambda: signal.raise_signal(number)):
        message = run_cli.stops(*DISTILL)
    assert "distill was asked to stop and did, after step 2 of 6." in message
    assert signal.getsignal(number) == before
    steps: list[int] = []
    with at_step(2, lambda: steps.append(2)), at_step(1, power_cut):  # step 1 is not taken again
        outcome = run_cli(*DISTILL)
    assert steps == [2]
    assert_same(outcome, undisturbed.outcome)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("words", [("--workers", 1), ("--targets-placement", "mapped")], ids=lambda words: words[0])
def test_distill__gives_the_same_bytes_however_it_is_run(
    words: tuple[object, ...], trained: dict[str, Any], run_cli: Cli
) -> None:
    assert_same(run_cli(*DISTILL, *words, "--force"), trained)


def test_distill__leaves_out_images_that_cannot_be_read_and_counts_them(own_images: Path, run_cli: Cli) -> None:
    (own_images / "images/003.jpg").unlink()
    _truncate(own_images / "images/007.jpg")
    (own_images / "images/011.jpg").write_text("no image")
    words = (*DISTILL, "--image-root", own_images, "--epochs", 1)
    outcome = run_cli(*words, "--max-bad-fraction", 0.2)
    assert outcome["counts"]["training_examples"] == 21
    assert outcome["counts"]["rejected_images"] == 3
    assert sum(outcome["counts"]["rejected_reasons"].values()) == 3
    rejected = read_rejected(Path(outcome["path"]))
    assert [entry.value for entry in rejected] == ["images/003.jpg", "images/007.jpg", "images/011.jpg"]
    assert [entry.row for entry in rejected] == [5, 9, 13]
    assert rejected[0].reason == "missing file"
    assert rejected[1].reason.startswith("truncated or damaged")


def test_distill__stops_at_too_many_missing_images_and_names_the_first(own_images: Path, run_cli: Cli) -> None:
    (own_images / "images/003.jpg").unlink()
    message = run_cli.fails(*DISTILL, "--image-root", own_images)
    assert "At most 0 images may be missing (--max-bad-fraction); got 1 of 24" in message
    assert str(own_images / "images/003.jpg") in message


def test_distill__stops_at_too_many_unreadable_images_and_names_them(own_images: Path, run_cli: Cli) -> None:
    _truncate(own_images / "images/007.jpg")
    message = run_cli.fails(*DISTILL, "--image-root", own_images)
    assert "At most 0 images may be unreadable (--max-bad-fraction); got 1 so far" in message
    assert "images/007.jpg: truncated or damaged" in message


def test_distill__is_asked_for_anew_by_the_bytes_of_an_image_and_not_by_its_place(
    trained: dict[str, Any], run_cli: Cli, own_images_of_trained: Path
) -> None:
    why = ("why", *DISTILL, "--image-root", own_images_of_trained)
    assert "would not run: unchanged" in run_cli.run(*why).stdout
    image = own_images_of_trained / "images/005.jpg"
    shutil.copy(own_images_of_trained / "images/006.jpg", image)
    assert "images (" in run_cli.run(*why).stdout
    image.unlink()
    assert "images (" in run_cli.run(*why).stdout


@pytest.fixture
def own_images_of_trained(encoded_session: tuple[Path, Pairs], tmp_path: Path) -> Path:
    return shutil.copytree(encoded_session[1].root, tmp_path / "moved")


@pytest.mark.parametrize("workers", [0, 2])
def test_distill__refuses_an_image_that_changes_while_it_runs(
    workers: int, own_images: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stages.distill.run.make_student

    def then_change(*arguments: Any, **options: Any) -> Any:
        shutil.copy(own_images / "images/006.jpg", own_images / "images/005.jpg")
        return real(*arguments, **options)

    monkeypatch.setattr(stages.distill.run, "make_student", then_change)
    message = run_cli.fails(*DISTILL, "--image-root", own_images, "--epochs", 1, "--workers", workers)
    assert "images/005.jpg must be as it was when its bytes were hashed; it has changed." in message


def test_distill__trusts_paths_when_told_to(own_images: Path, run_cli: Cli) -> None:
    words = (*DISTILL, "--image-root", own_images, "--image-identity", "path", "--epochs", 1)
    first = run_cli(*words)
    shutil.copy(own_images / "images/006.jpg", own_images / "images/005.jpg")
    assert run_cli(*words)["status"] == "unchanged"
    assert run_cli.run("why", *words, "--image-identity", "content").stdout.count("would run as")
    assert first["status"] == "created"


def test_projection_dim__sets_the_width_of_the_embedding(encoded: Pairs, run_cli: Cli) -> None:
    outcome = run_cli(*DISTILL, "--projection-dim", 6, "--loss", "rkd=1", "--epochs", 1)
    config = StudentConfig.read(Path(outcome["path"]))
    assert (config.embedding_dim, config.teacher.dim, config.losses) == (6, 16, {"rkd": 1.0})
    student = load_student(config, Path(outcome["path"]) / WEIGHTS_NAME, device=torch.device("cpu"))
    assert student(torch.zeros(1, 3, 32, 32)).shape == (1, 6)


def test_projection_dim__other_than_the_teachers_is_refused_where_widths_must_agree(
    encoded: Pairs, run_cli: Cli
) -> None:
    message = run_cli.fails(*DISTILL, "--projection-dim", 6)
    assert "must have the same width" in message


def test_distill__lists_known_names_for_an_unknown_one(encoded: Pairs, run_cli: Cli) -> None:
    message = run_cli.fails(*DISTILL, "--student", "resnet19")
    assert "--student and --backbone must name a known backbone" in message
    assert "resnet18" in message
    message = run_cli.fails(*DISTILL, "--loss", "simrge=1")
    assert "--loss must name a known objective; got 'simrge'. Did you mean 'simreg'?" in message
    assert "simreg-l1" in message


def test_distill__stops_when_the_loss_is_no_longer_finite(encoded: Pairs, run_cli: Cli, store: Path) -> None:
    message = run_cli.fails(*DISTILL, "--lr", 1e30)
    assert "The loss must stay finite" in message
    assert "Try a lower --lr" in message
    assert not list(store.glob("distill/.draft-*"))


def test_distill__leaves_out_captions_of_which_the_teacher_knows_no_word(
    pairs_folder: Any, word_vectors: Path, run_cli: Cli
) -> None:
    pairs = pairs_folder(9, 40)
    lines = pairs.manifest.read_text().replace("blue circle", "unheard of")
    pairs.manifest.write_text(lines)
    run_cli("encode-teacher", "--manifest", pairs.manifest, "--teacher", word_vectors)
    outcome = run_cli(*DISTILL, "--epochs", 1)
    assert outcome["counts"]["zero_captions_left_out"] == 1
    assert outcome["counts"]["training_examples"] == 8


def test_distill__says_what_must_run_first(run_cli: Cli) -> None:
    assert "Run encode-teacher first" in run_cli.fails(*DISTILL)


def test_distill__refuses_embeddings_that_are_damaged(encoded: Pairs, run_cli: Cli, store: Path) -> None:
    [shard] = store.glob("encode-teacher/*/embeddings.zarr/c/0/0")
    damaged = bytearray(shard.read_bytes())
    damaged[5] ^= 0xFF
    shard.write_bytes(damaged)
    message = run_cli.fails(*DISTILL)
    assert f"{shard} must be as it was written" in message
    assert "Run encode-teacher again" in message


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
