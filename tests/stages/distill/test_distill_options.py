"""Options of distill from the command line: each does to the training what its help says."""

import csv
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from workbench import COLOURS, DISTILL, SHAPES, Cli, Pairs, at_step, make_pairs, power_cut

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import WEIGHTS_NAME, StudentConfig
from data_schemas.pair_index import read_pairs
from pipeline.store.store import Store
from stages.components.student.student import Student, build_student
from stages.components.student.weights import load_student
from stages.distill.data.examples import split_validation
from stages.distill.training.loop import Training

SAVE_EACH_STEP = ("--save-every-minutes", 1e-9)
EACH_STEP = (*DISTILL, "--log-every-steps", 1)
ONCE = (*EACH_STEP, "--epochs", 1)
# Nothing draws random numbers or normalises over a batch, and a large epsilon keeps AdamW from turning the rounding of
# gradients near 0 into steps of full length.
STILL = (*EACH_STEP, "--freeze-backbone", "--eps", 0.01)
SHUFFLENET = ("--student", "shufflenet_v2_x0_5")


def weights_of(outcome: dict[str, Any], name: str = WEIGHTS_NAME) -> dict[str, Tensor]:
    return safetensors.torch.load_file(Path(outcome["path"]) / name)


def metrics_of(outcome: dict[str, Any]) -> list[dict[str, float]]:
    lines = (Path(outcome["path"]) / "logs" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def first_weights(student: str) -> dict[str, Tensor]:
    """Return what a student starts from under the default seed."""
    torch.manual_seed(0)
    return dict(build_student(student, embedding_dim=16, image_size=32).state_dict())


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """List the parts of a student that differ: "backbone", "head"."""
    return {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture
def other_cli(encoded: Pairs, store: Path, tmp_path: Path) -> Cli:
    """Return a second store with the same embeddings."""
    return Cli(shutil.copytree(store, tmp_path / "other"))


def test_loss__is_the_weighted_sum_of_the_terms_in_the_metrics(encoded: Pairs, run_cli: Cli) -> None:
    words = (*ONCE, "--loss", "simreg=2", "--loss", "infonce=0.5", "--warmup-steps", 4, "--lr", 1e-3)
    lines = metrics_of(run_cli(*words))
    for line in lines:
        assert line["loss"] == pytest.approx(2 * line["simreg"] + 0.5 * line["infonce"], rel=1e-5)
        assert line["grad_norm"] > 0
        assert line["images_per_s"] > 0
        assert 0 <= line["data_wait_share"] <= 1
    assert [line["lr"] for line in lines] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3])


def test_loss_option__reaches_the_objective_and_the_fingerprint(encoded: Pairs, run_cli: Cli) -> None:
    words = (*ONCE, "--loss-option", "rkd.angle-weight=0")
    half = run_cli(*words, "--loss", "rkd=1", "--loss-option", "rkd.distance-weight=0.5")
    same = run_cli(*words, "--loss", "rkd=1.0", "--loss-option", "rkd.distance_weight=0.50")
    assert (same["status"], same["fingerprint"]) == ("unchanged", half["fingerprint"])
    other = (*words, "--loss", "rkd", "--loss-option", "rkd.distance-weight=1")
    assert (
        "--loss-option: rkd.angle-weight=0, rkd.distance-weight=0.5 -> rkd.angle-weight=0, rkd.distance-weight=1"
        in run_cli.run("why", *other).stdout
    )
    whole = run_cli(*other)
    assert whole["status"] == "created"
    assert metrics_of(whole)[0]["rkd"] == pytest.approx(2 * metrics_of(half)[0]["rkd"], rel=1e-6)


@pytest.mark.parametrize(
    ("spec", "messages"),
    [
        ("rkd.angle-wieght=0", ("Did you mean 'angle_weight'?", "Known: angle_block, angle_weight, distance_weight")),
        ("rkd.angle-weight=much", ("--loss-option rkd.angle-weight must be a number; got 'much'",)),
        ("rkd.angle-weight=-1", ("of rkd must be finite, not negative",)),
        ("seed.queue-size=64", ("must belong to an objective given by --loss; got 'seed'. Given: rkd.",)),
        ("rkd=1", ("--loss-option must name objective, option and value; got 'rkd=1'",)),
    ],
)
def test_loss_option__that_cannot_be_is_refused(
    spec: str, messages: tuple[str, ...], encoded: Pairs, run_cli: Cli
) -> None:
    said = run_cli.fails(*ONCE, "--loss", "rkd=1", "--loss-option", spec)
    assert all(message in said for message in messages), said


def test_episode_size__is_an_epoch_and_is_gone_on_with_in_its_middle(
    encoded: Pairs, run_cli: Cli, other_cli: Cli
) -> None:
    words = (*DISTILL, "--batch-size", 4, "--episode-size", 10, "--epochs", 3, "--save-every-epochs", 2)
    undisturbed = other_cli(*words)
    assert undisturbed["counts"]["steps"] == 3 * 3  # 4, 4 and 2 examples
    kept = sorted(path.name for path in (Path(undisturbed["path"]) / "checkpoints").iterdir())
    assert kept == ["epoch_2.safetensors", "epoch_3.safetensors"]
    with at_step(7, power_cut), pytest.raises(RuntimeError, match="power cut"):
        run_cli(*words, *SAVE_EACH_STEP)
    steps: list[int] = []
    with at_step(6, power_cut), at_step(7, lambda: steps.append(7)):
        resumed = run_cli(*words)
    assert steps == [7]
    assert resumed["digest"] == undisturbed["digest"]


def test_episode_size__is_at_most_the_whole(encoded: Pairs, run_cli: Cli) -> None:
    message = run_cli.fails(*DISTILL, "--episode-size", 25)
    assert "--episode-size must be at most the number of examples, 24; got 25." in message


def test_captions_per_image__say_what_an_example_is(tmp_path: Path, run_cli: Cli, word_vectors: Path) -> None:
    pairs = make_pairs(tmp_path / "pictures", 8, 40)
    with pairs.manifest.open("a") as file:
        file.writelines(
            f"{image}\t{caption.split()[0]}\n" for image, caption in zip(pairs.images, pairs.captions, strict=True)
        )
    run_cli("encode-teacher", "--manifest", pairs.manifest, "--teacher", word_vectors)
    words = (*EACH_STEP, *SHUFFLENET, "--epochs", 6)
    outcomes = {way: run_cli(*words, "--captions-per-image", way) for way in ("each", "sample", "mean", "first")}
    counts = {
        way: (outcome["counts"]["training_examples"], outcome["counts"]["steps"]) for way, outcome in outcomes.items()
    }
    assert counts == {"each": (16, 12), "sample": (8, 6), "mean": (8, 6), "first": (8, 6)}
    losses = {way: [line["loss"] for line in metrics_of(outcome)] for way, outcome in outcomes.items()}
    assert all(values[-1] < values[0] for values in losses.values())
    assert len({values[0] for values in losses.values()}) == 4
    assert len({outcome["digest"] for outcome in outcomes.values()}) == 4


def test_accumulate_steps__changes_memory_alone_where_examples_are_apart(encoded: Pairs, run_cli: Cli) -> None:
    words = (*STILL, "--loss", "simreg=1")  # which has no batch in its formula
    whole, cut = run_cli(*words), run_cli(*words, "--accumulate-steps", 2)
    assert whole["counts"] == cut["counts"]
    assert whole["fingerprint"] != cut["fingerprint"]
    start, end = first_weights("squeezenet1_1"), weights_of(whole)
    assert moved(start, end) == {"head"}
    for name, tensor in weights_of(cut).items():
        torch.testing.assert_close(tensor, end[name], rtol=1e-5, atol=1e-7)
    assert (start["head.0.weight"] - end["head.0.weight"]).abs().max() > 1e-4  # many times the tolerance
    for line, cut_line in zip(metrics_of(whole), metrics_of(cut), strict=True):
        assert cut_line["loss"] == pytest.approx(line["loss"], rel=1e-5)
        assert cut_line["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-4)


def test_accumulate_steps__shows_objectives_one_micro_batch_at_a_time(encoded: Pairs, run_cli: Cli) -> None:
    words = (*STILL, "--epochs", 1, "--loss", "infonce=1", "--loss-option", "infonce.temperature=1")
    whole, cut = (metrics_of(run_cli(*words, "--accumulate-steps", steps))[0] for steps in (1, 2))
    # So soft a contrast is little more than the number of captions that are chosen from.
    assert whole["infonce"] == pytest.approx(math.log(8), abs=0.3)
    assert cut["infonce"] == pytest.approx(math.log(4), abs=0.3)


def test_max_grad_norm__bounds_the_step(encoded: Pairs, run_cli: Cli) -> None:
    words = (*STILL, "--epochs", 1, "--eps", 1, "--weight-decay", 0, "--lr", 1)
    start = first_weights("squeezenet1_1")
    free, held = run_cli(*words, "--max-grad-norm", 0), run_cli(*words, "--max-grad-norm", 1e-6)
    assert (weights_of(free)["head.0.weight"] - start["head.0.weight"]).abs().max() > 1e-4
    assert (weights_of(held)["head.0.weight"] - start["head.0.weight"]).abs().max() < 1e-5
    assert metrics_of(held)[0]["grad_norm"] == pytest.approx(metrics_of(free)[0]["grad_norm"])  # before it is bounded


def test_ema_decay__gives_out_the_mean_of_the_weights(encoded: Pairs, run_cli: Cli, other_cli: Cli) -> None:
    words = (*DISTILL, *SHUFFLENET, "--batch-size", 24, "--epochs", 4)  # a step is an epoch
    decay = ("--ema-decay", 0.15)
    plain = run_cli(*words)
    mean = first_weights("shufflenet_v2_x0_5")
    for step in range(4):
        kept = min(0.15, (1 + step) / (10 + step))
        for name, tensor in weights_of(plain, f"checkpoints/epoch_{step + 1}.safetensors").items():
            mean[name] = kept * mean[name] + (1 - kept) * tensor if tensor.is_floating_point() else tensor
    averaged = other_cli(*words, *decay)
    last = weights_of(plain)
    for name, tensor in weights_of(averaged).items():
        torch.testing.assert_close(tensor, mean[name], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(last["head.0.weight"], mean["head.0.weight"], rtol=1e-3, atol=1e-5)
    with at_step(2, power_cut), pytest.raises(RuntimeError, match="power cut"):
        run_cli(*words, *decay)
    assert run_cli(*words, *decay)["digest"] == averaged["digest"]


def test_validation_fraction__measures_after_every_epoch_on_images_that_are_not_trained_on(
    encoded: Pairs, run_cli: Cli, tmp_path: Path
) -> None:
    table = read_pairs(Store(run_cli.store).artifacts("encode-teacher")[0].path)
    _, held_out = split_validation(table, torch.arange(24).numpy(), fraction=0.3, seed=0)
    own = shutil.copytree(encoded.root, tmp_path / "own")
    for pair in held_out[2:]:  # to read one of these in training would be an error
        (own / encoded.images[pair]).write_text("no image")
    outcome = run_cli(*DISTILL, "--validation-fraction", 0.3, "--image-root", own, "--max-bad-fraction", 0)
    counts = outcome["counts"]
    assert counts["validation_pairs"] == len(held_out) > 2
    assert counts["training_examples"] == 24 - len(held_out)
    assert counts["rejected_images"] == 0
    lines = metrics_of(outcome)
    per_epoch = counts["steps"] // 2
    assert [(line["step"], line["epoch"]) for line in lines] == [(per_epoch, 1), (2 * per_epoch, 2)]
    for line in lines:
        assert (line["validation/images"], line["validation/unreadable_images"]) == (2, len(held_out) - 2)
        assert line["validation/image_to_text/recall@1"] in (0, 50, 100)
    (own / encoded.images[held_out[0]]).write_text("no image")
    message = run_cli.fails(*DISTILL, "--validation-fraction", 0.3, "--image-root", own, "--max-bad-fraction", 0)
    assert "Validation must have 2 readable images or more; got 1" in message


def test_validation_fraction__needs_embeddings_of_the_teachers_width(encoded: Pairs, run_cli: Cli) -> None:
    message = run_cli.fails(*DISTILL, "--loss", "rkd=1", "--projection-dim", 6, "--validation-fraction", 0.3)
    assert "--validation-fraction must go with embeddings of the teacher's width, 16; got --projection-dim 6" in message


def test_freeze_backbone__trains_the_head_alone_whatever_it_is_made_of(encoded: Pairs, run_cli: Cli) -> None:
    outcome = run_cli(*ONCE, *SHUFFLENET, "--freeze-backbone", "--projection-layers", 2)
    config = StudentConfig.read(Path(outcome["path"]))
    assert config.projection_layers == 2
    student = load_student(config, Path(outcome["path"]) / WEIGHTS_NAME, device=torch.device("cpu"))
    after, start = student.state_dict(), first_weights("shufflenet_v2_x0_5")
    backbone = {name: tensor for name, tensor in start.items() if name.startswith("backbone.")}
    assert any(name.endswith("running_mean") for name in backbone)
    assert not moved(backbone, after)
    assert int(after["head.1.num_batches_tracked"]) == 3


def test_init_from__starts_the_backbone_from_a_student_of_ours(
    trained: dict[str, Any], run_cli: Cli, tmp_path: Path
) -> None:
    words = (*ONCE, "--freeze-backbone", "--seed", 1, "--init-from")
    source = Path(trained["path"]) / WEIGHTS_NAME
    outcome = run_cli(*words, source)
    assert moved(weights_of(trained), weights_of(outcome)) == {"head"}
    copy = shutil.copy(source, tmp_path / "copy.safetensors")
    described = shutil.copy(source.with_name("student.json"), tmp_path / "student.json")
    assert run_cli(*words, copy)["status"] == "unchanged"
    values = json.loads(described.read_text())
    described.write_text(json.dumps({**values, "preprocessing": {**values["preprocessing"], "mean": [0.5, 0.5, 0.5]}}))
    assert "init_from student.json: " in run_cli.run("why", *words, copy).stdout
    tensors = safetensors.torch.load_file(copy)
    safetensors.torch.save_file({name: tensor + 1 for name, tensor in tensors.items()}, copy)
    assert "init_from weights: " in run_cli.run("why", *words, copy).stdout
    assert run_cli(*words, copy)["fingerprint"] != outcome["fingerprint"]


def test_init_from__must_be_a_file_and_the_only_start(trained: dict[str, Any], run_cli: Cli, tmp_path: Path) -> None:
    message = run_cli.fails(*ONCE, "--init-from", tmp_path / "nowhere.pth")
    assert f"--init-from must name a file of weights; got {tmp_path / 'nowhere.pth'}" in message
    source = Path(trained["path"]) / WEIGHTS_NAME
    message = run_cli.fails(*ONCE, "--init-from", source, "--pretrained", "torchvision")
    assert "Only one of --pretrained and --init-from must be given; got both" in message
    message = run_cli.fails(*ONCE, "--init-from", source, "--student", "shufflenet_v2_x0_5")
    assert "must hold all weights of the shufflenet_v2_x0_5 backbone" in message


def test_checkpoint_gradients__changes_no_weight(encoded: Pairs, run_cli: Cli) -> None:
    words = (*ONCE, "--student", "resnet18", "--batch-size", 12)
    plain = run_cli(*words)
    before = weights_of(plain)
    result = run_cli.run(*words, "--checkpoint-gradients", "--force", "--json")
    assert "8 blocks of the backbone are recomputed in the backward pass" in result.stderr
    assert run_cli(*words)["fingerprint"] == plain["fingerprint"]
    for name, tensor in weights_of(plain).items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_checkpoint_gradients__needs_a_student_of_known_blocks(encoded: Pairs, run_cli: Cli) -> None:
    message = run_cli.fails(*ONCE, "--checkpoint-gradients")
    assert "--checkpoint-gradients must have a --student of known blocks" in message


def test_compile__is_done_once_for_whole_batches_and_never_for_others(
    encoded: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[int]] = []

    def count(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        tensors = [each for each in inputs if isinstance(each, Tensor)]
        batches.append([len(tensor) for tensor in tensors if tensor.shape[1:] == (3, 32, 32)])
        return graph.forward

    # As `nn.Module.compile` does it, with another backend.
    monkeypatch.setattr(Student, "compile", lambda student: nn.Module.compile(student, backend=count))
    torch.compiler.reset()
    torch.set_float32_matmul_precision("highest")  # as validation leaves it: another precision is compiled for anew
    # Batches of 7, of 7 and of 3, and those of validation.
    run_cli(*DISTILL, "--batch-size", 7, "--validation-fraction", 0.3, "--compile")
    assert batches == [[7]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compile__changes_the_student_by_rounding_alone(encoded: Pairs, run_cli: Cli) -> None:
    plain = run_cli(*STILL, "--epochs", 1)
    before = weights_of(plain)
    assert run_cli(*STILL, "--epochs", 1, "--compile", "--force")["status"] == "created"
    for name, tensor in weights_of(plain).items():
        torch.testing.assert_close(tensor, before[name], rtol=1e-3, atol=1e-5)


def test_report_to__says_what_to_install(encoded: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    message = run_cli.fails(*ONCE, "--report-to", "tensorboard")
    assert "--report-to tensorboard must have the package tensorboard" in message
    assert "pip install 'protorkd[tensorboard]'" in message
    assert not list((run_cli.store / "distill").glob("[!.]*"))


def test_augmentation__is_what_the_student_sees(encoded: Pairs, run_cli: Cli) -> None:
    ways = {
        "crop": (),
        "smaller": ("--crop-min-scale", 0.3),
        "light": ("--augmentation", "light"),
        "none": ("--augmentation", "none"),
        "other seed": ("--augmentation", "none", "--seed", 1),
    }
    # An epoch is a step that moves nothing, and no order of the images changes the loss.
    words = (*EACH_STEP, *SHUFFLENET, "--batch-size", 24, "--lr", 1e-9, "--loss", "simreg=1")
    losses = {way: [line["loss"] for line in metrics_of(run_cli(*words, *own))] for way, own in ways.items()}
    assert len({first for first, _ in losses.values()}) == len(ways)
    assert all(
        (first == pytest.approx(second, rel=1e-5)) == (way in ("none", "other seed"))
        for way, (first, second) in losses.items()
    )


def test_label_column__gives_the_classes_that_are_trained_on(tmp_path: Path, run_cli: Cli, word_vectors: Path) -> None:
    pairs = make_pairs(tmp_path / "pictures", 24, 40)
    rows = [(image, caption, *caption.split()) for image, caption in zip(pairs.images, pairs.captions, strict=True)]
    with pairs.manifest.open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([("filepath", "title", "colour", "shape"), *rows])
    objective = ("--loss", "cross-entropy=1", "--loss-option", "cross-entropy.temperature=1")
    words = (*EACH_STEP, *SHUFFLENET, "--epochs", 6, *objective)
    for column, names in (("colour", COLOURS), ("shape", SHAPES)):
        run_cli("encode-teacher", "--manifest", pairs.manifest, "--teacher", word_vectors, "--label-column", column)
        losses = [line["cross-entropy"] for line in metrics_of(run_cli(*words))]
        # So soft a choice costs little more at first than the number of classes says.
        assert losses[0] == pytest.approx(math.log(len(names)), abs=0.3)
        first_epoch, last_epoch = losses[:3], losses[-3:]
        assert sum(last_epoch) / 3 < sum(first_epoch) / 3 - 0.02


def test_distill__hands_its_numbers_to_optimizer_and_schedule(
    encoded: Pairs, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def stop(training: Training) -> None:
        made.append(training)
        raise ProtoRKDError("enough")

    monkeypatch.setattr(Training, "run", stop)
    numbers = ("--lr", 0.01, "--weight-decay", 0.2, "--beta1", 0.8, "--beta2", 0.7, "--eps", 1e-3, "--warmup-steps", 5)
    run_cli.fails(*DISTILL, *numbers, "--seed", 3)
    defaults, schedule = made[0]._model.optimizer.defaults, made[0]._schedule
    assert (defaults["lr"], defaults["betas"], defaults["eps"]) == (0.01, (0.8, 0.7), 1e-3)
    assert [group["weight_decay"] for group in made[0]._model.optimizer.param_groups] == [
        0.2,
        0.0,
        0.0,  # of the objective's scale
    ]
    assert (schedule.epochs, schedule.lr, schedule.warmup_steps, schedule.seed) == (2, 0.01, 5, 3)
