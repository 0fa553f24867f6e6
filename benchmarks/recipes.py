"""Compare objectives on real pairs with equal data, student and steps; run again, it goes on where it stopped."""

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.log import show_log
from pipeline.runner import context_of, run_stage
from pipeline.stage import Context
from pipeline.store.store import Artifact, Store
from stages import STAGES
from stages.distill.options import DistillInputs, DistillParams
from stages.distill.stage import STAGE as DISTILL
from stages.encode_teacher.options import EncodeInputs, EncodeParams
from stages.encode_teacher.stage import STAGE as ENCODE_TEACHER
from stages.evaluate.options import EvaluateInputs, EvaluateParams
from stages.evaluate.stage import STAGE as EVALUATE


@dataclass(frozen=True)
class Recipe:
    """Objectives of a training, and their options.

    Args:
        losses: Values of ``--loss``.
        options: Values of ``--loss-option``.
        target_smoothing: Value of ``--target-smoothing``.
    """

    losses: tuple[str, ...]
    options: tuple[str, ...] = ()
    target_smoothing: float = 0.0


DEFAULT = "default"
RECIPES = {
    "simreg": Recipe(("simreg=1",)),
    "rkd": Recipe(("rkd=1",)),
    "seed": Recipe(("seed=1",)),
    "compress-1q": Recipe(("compress-1q=1",)),
    "infonce": Recipe(("infonce=1",)),
    "proto-rkd": Recipe(("proto-rkd=1",)),
    "simreg+proto-rkd": Recipe(("simreg=1", "proto-rkd=1")),
    "infonce+proto-rkd": Recipe(("infonce=1", "proto-rkd=0.5")),
    "infonce, smoothed": Recipe(("infonce=1",), target_smoothing=0.5),
    DEFAULT: Recipe(DistillParams().loss, DistillParams().loss_option, DistillParams().target_smoothing),
}


def main() -> None:
    """Train a student by every recipe and seed, evaluate each, and print what they reached."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Folder with coco22k/ and cifar10/.")
    parser.add_argument("--teacher", required=True, help="Teacher, by name or folder.")
    parser.add_argument("--store", type=Path, default=Path("build/recipes"), help="Store of all runs.")
    parser.add_argument("--recipe", action="append", choices=[*RECIPES], help="Run this one; repeatable. Default: all.")
    parser.add_argument("--seed", action="append", type=int, help="Train with this one; repeatable. Default: 0 and 1.")
    parser.add_argument("--student", default="resnet18")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warmup-steps", type=int, default=50)
    parser.add_argument("--projection-layers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("build/recipes.json"), help="Where the figures go.")
    options = parser.parse_args()
    show_log()
    context = context_of(Store(options.store), stages=STAGES)
    embeddings = run_stage(
        ENCODE_TEACHER,
        params=EncodeParams(),
        inputs=EncodeInputs(manifest=options.data / "coco22k" / "train.tsv", teacher=options.teacher),
        runtime=ENCODE_TEACHER.runtime(),
        context=context,
    ).artifact
    results: dict[str, list[dict[str, float]]] = {}
    for seed in options.seed or (0, 1):
        for name in options.recipe or RECIPES:
            params = DistillParams(
                student=options.student,
                image_size=options.image_size,
                projection_layers=options.projection_layers,
                loss=RECIPES[name].losses,
                loss_option=RECIPES[name].options,
                target_smoothing=RECIPES[name].target_smoothing,
                epochs=options.epochs,
                batch_size=options.batch_size,
                lr=options.lr,
                warmup_steps=options.warmup_steps,
                seed=seed,
            )
            metrics = _train_and_measure(params, embeddings, data=options.data, context=context)
            results.setdefault(name, []).append(metrics)
            settings = {key: value for key, value in vars(options).items() if isinstance(value, int | float | str)}
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps({"settings": settings, "results": results}, indent=2) + "\n")
    print(table(results))


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Write a line per recipe in Markdown: means over the seeds, and the mean recall of each seed."""
    columns = {
        "text to image R@10": "test/text_to_image/recall@10",
        "image to text R@10": "test/image_to_text/recall@10",
        "zero-shot top-1": "cifar10/zero_shot/top1",
        "kNN top-1": "cifar10/knn/top1",
    }
    lines = [f"| recipe | mean recall | of each seed | {' | '.join(columns)} |", "|---" * (3 + len(columns)) + "|"]
    for name, runs in results.items():
        recalls = [run["test/mean_recall"] for run in runs]
        means = [_mean(run[metric] for run in runs) for metric in columns.values()]
        each = ", ".join(f"{recall:.2f}" for recall in recalls)
        lines.append(f"| `{name}` | {_mean(recalls)} | {each} | {' | '.join(means)} |")
    return "\n".join(lines)


def _train_and_measure(
    params: DistillParams, embeddings: Artifact, *, data: Path, context: Context
) -> dict[str, float]:
    student = run_stage(
        DISTILL,
        params=params,
        inputs=DistillInputs(embeddings=str(embeddings.path)),
        runtime=DISTILL.runtime(),
        context=context,
    ).artifact
    cifar = str(data / "cifar10")
    measured = run_stage(
        EVALUATE,
        params=EvaluateParams(),
        inputs=EvaluateInputs(
            student=str(student.path),
            retrieval=(str(data / "coco22k" / "test.tsv"),),
            zero_shot=(f"{cifar}/test",),
            knn=(cifar,),
        ),
        runtime=EVALUATE.runtime(),
        context=context,
    )
    return dict(measured.artifact.record.metrics)


def _mean(values: Any) -> str:
    return f"{statistics.fmean(values):.2f}"


if __name__ == "__main__":
    main()
