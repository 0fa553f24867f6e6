"""Compare recipes on real pairs with equal data and steps; run again, it goes on where it stopped."""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.recipes.regimes import REGIMES, Regime
from benchmarks.recipes.tables import Trained, image_recalls, table
from data_schemas.training_log import METRICS_NAME
from pipeline.log import show_log
from pipeline.runner import context_of, run_stage
from pipeline.stage import Context
from pipeline.store.store import Artifact, Store
from stages import STAGES
from stages.distill.options import DistillInputs, DistillParams
from stages.distill.stage import STAGE as DISTILL
from stages.encode_images.options import EncodeImagesInputs
from stages.encode_images.stage import STAGE as ENCODE_IMAGES
from stages.encode_teacher.options import EncodeInputs, EncodeParams
from stages.encode_teacher.stage import STAGE as ENCODE_TEACHER
from stages.evaluate.options import EvaluateInputs, EvaluateParams
from stages.evaluate.stage import STAGE as EVALUATE

_VALIDATION = "validation/mean_recall"
_TEST_COLUMNS = {
    "text to image R@10": "test/text_to_image/recall@10",
    "image to text R@10": "test/image_to_text/recall@10",
}
_CIFAR_COLUMNS = {"zero-shot top-1": "cifar10/zero_shot/top1", "kNN top-1": "cifar10/knn/top1"}


def main() -> None:
    """Train a student by every recipe and seed, measure each, and print what they reached."""
    options = _parser().parse_args()
    show_log(quiet=options.quiet)
    regime = REGIMES[options.regime]
    context = context_of(Store(options.store), stages=STAGES)
    data = _Data(options, regime, context)
    results: dict[str, list[Trained]] = {}
    for seed in options.seed or regime.seeds:
        for name in options.recipe or regime.recipes:
            values = {**regime.shared, **regime.recipes[name], **dict(map(_read_setting, options.set)), "seed": seed}
            results.setdefault(name, []).append(data.train(values))
            settings = {key: value for key, value in vars(options).items() if isinstance(value, int | float | str)}
            figures = {each: [student.as_json() for student in students] for each, students in results.items()}
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps({"settings": settings, "results": figures}, indent=2) + "\n")
    print(table(results, headline=data.headline, columns=data.columns))


class _Data:
    """Pairs with their teacher's embeddings and features, and what students of them are measured by."""

    def __init__(self, options: argparse.Namespace, regime: Regime, context: Context) -> None:
        self._data: Path = options.data
        self._context, self._regime = context, regime
        self._fraction = options.validation_fraction
        manifest = self._data / "coco22k" / "train.tsv"
        self._embeddings = self._make(
            ENCODE_TEACHER, EncodeParams(limit=options.limit), EncodeInputs(manifest=manifest, teacher=options.teacher)
        )
        self._features = None
        if regime.on_features:
            vectors = self._data / "coco22k_features" / "train-*.parquet"
            self._features = self._make(
                ENCODE_IMAGES, ENCODE_IMAGES.params(), EncodeImagesInputs(manifest=manifest, vectors=vectors)
            )
        self.headline = _VALIDATION if self._fraction else "test/mean_recall"
        self.columns = {} if self._fraction else _TEST_COLUMNS | ({} if regime.on_features else _CIFAR_COLUMNS)

    def train(self, values: dict[str, Any]) -> Trained:
        """Train a student, and measure it on held-out pairs, or on the test pairs."""
        features = None if self._features is None else str(self._features.path)
        student = self._make(
            DISTILL,
            DistillParams(validation_fraction=self._fraction, **values),
            DistillInputs(embeddings=str(self._embeddings.path), features=features),
        )
        seconds = student.record.seconds
        if self._fraction:
            return Trained(values["seed"], seconds, {_VALIDATION: _last_validation(student)})
        measured = self._evaluate(student)
        recalls = image_recalls(str(measured.path), store=self._context.store)
        return Trained(values["seed"], seconds, dict(measured.record.metrics), recalls)

    def _evaluate(self, student: Artifact) -> Artifact:
        retrieval = (str(self._data / "coco22k" / "test.tsv"),)
        cifar = str(self._data / "cifar10")
        sets: dict[str, Any] = {"zero_shot": (f"{cifar}/test",), "knn": (cifar,)}
        if self._regime.on_features:
            sets = {"image_vectors": self._data / "coco22k_features" / "test-*.parquet"}
        return self._make(
            EVALUATE, EvaluateParams(), EvaluateInputs(student=str(student.path), retrieval=retrieval, **sets)
        )

    def _make(self, stage: Any, params: Any, inputs: Any) -> Artifact:
        return run_stage(stage, params=params, inputs=inputs, runtime=stage.runtime(), context=self._context).artifact


def _last_validation(student: Artifact) -> float:
    lines = map(json.loads, (student.path / METRICS_NAME).read_text(encoding="utf-8").splitlines())
    return float([line[_VALIDATION] for line in lines if _VALIDATION in line][-1])


def _read_setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    return name.replace("-", "_"), json.loads(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description=main.__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="Folder with coco22k/, coco22k_features/ and cifar10/."
    )
    parser.add_argument("--teacher", required=True, help="Teacher, by name or folder.")
    parser.add_argument(
        "--regime", choices=[*REGIMES], default="scratch", help="What is trained: a head on features, or a network."
    )
    parser.add_argument("--store", type=Path, default=Path("build/recipes"), help="Store of all runs.")
    parser.add_argument("--recipe", action="append", help="Run this one; repeatable. Default: all of the regime.")
    parser.add_argument("--seed", action="append", type=int, help="Train with this one; repeatable.")
    parser.add_argument("--limit", type=int, default=0, help="Train on the first so many pairs. 0: all.")
    parser.add_argument(
        "--validation-fraction",
        type=float,
        default=0.0,
        help="Measure on this share of the training pairs, held out, to choose by. 0: on the test pairs.",
    )
    parser.add_argument(
        "--set", action="append", default=[], help="OPTION=JSON of distill for all recipes, such as epochs=60."
    )
    parser.add_argument("--out", type=Path, default=Path("build/recipes.json"), help="Where the figures go.")
    parser.add_argument("--quiet", action="store_true", help="Print the table alone.")
    return parser


if __name__ == "__main__":
    main()
