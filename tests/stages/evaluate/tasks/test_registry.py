from typing import Any

import pytest
import torch
from task_sets import class_set, embeddings, retrieval_set
from torch import Tensor

from data_schemas.calibration import QUERY_BANK, Calibration, MixedScores, QueryBank, ScoreLevels
from pipeline.stage import Input
from stages.evaluate.embeddings.cached_embeddings import ImageEmbeddings
from stages.evaluate.sets.scored_pairs import ScoredPairs
from stages.evaluate.tasks.registry import TASKS

SETTINGS: dict[str, dict[str, Any]] = {
    "zero_shot": {"templates": ("{}", "a {}")},
    "knn": {"k": 3, "temperature": 0.07},
    "knn_backbone": {"k": 3, "temperature": 0.07},
    "linear_probe": {"solver": "torch", "max_iterations": 100},
    "linear_probe_backbone": {"solver": "torch", "max_iterations": 100},
}


class _Embeddings:
    """Gives one table of rows a digest of images, and random rows for captions."""

    def __init__(self, tables: dict[str, Tensor]) -> None:
        self.tables = tables
        self.fit_device = torch.device("cpu")

    def images(self, images: Input) -> ImageEmbeddings:
        return embeddings(self.tables[images.digest], features=self.tables[images.digest].flip(1))

    def captions(self, captions: tuple[str, ...], *, prompt: str | None = None) -> Tensor:
        assert prompt is None
        return torch.randn(len(captions), 6, generator=torch.Generator().manual_seed(len(captions)))

    def calibration(self, kind: str) -> Calibration:
        bank = torch.nn.functional.normalize(self.captions(("a",) * 5)).numpy()
        images, captions = ScoreLevels(0.1, 0.2), ScoreLevels(0.2, 0.5)
        return QueryBank(bank, 0.05) if kind == QUERY_BANK else MixedScores(images, captions, captions, images)


class _Scored:
    name = "stsb"
    pairs = ScoredPairs(("a", "b", "c"), ("d", "e", "f"), (0.0, 1.0, 3.0))


@pytest.mark.parametrize("task", TASKS)
def test_task__writes_an_entry_under_its_name(task: str) -> None:
    pairs, images, _ = retrieval_set()
    classes, tables = class_set()
    embeddings = _Embeddings({**tables, "": images})
    measured_set: Any = classes
    if task in ("retrieval", "query_bank", "mixed", "geometry", "neighbourhoods"):
        measured_set = pairs
    elif task == "sts":
        measured_set = _Scored()
    measured = TASKS[task](measured_set, embeddings, seed=0, num_resamples=50, **SETTINGS.get(task, {}))
    assert (measured.entry["name"], measured.entry["task"]) == (measured_set.name, task)
    assert measured.entry["metrics"].keys() >= measured.entry["intervals"].keys() > set()
    assert {"num_images", "num_pairs"} & measured.entry.keys()
    assert all(outcomes.set_name == measured_set.name for outcomes in measured.outcomes)
    assert {outcomes.task for outcomes in measured.outcomes} == {
        "retrieval": {"text_to_image", "image_to_text"},
        "query_bank": {"query_bank/text_to_image", "query_bank/image_to_text"},
        "mixed": {"mixed/raw", "mixed/calibrated"},
        **{name: {name} for name in SETTINGS},
    }.get(task, set())


def test_backbone_tasks__look_at_other_features() -> None:
    classes, tables = class_set()
    embeddings = _Embeddings({name: table * torch.tensor([9.0, 1, 1, 1, 1, 1]) for name, table in tables.items()})
    for task in ("knn", "linear_probe"):
        first, other = (
            TASKS[name](classes, embeddings, seed=0, num_resamples=2, **SETTINGS[task])
            for name in (task, f"{task}_backbone")
        )
        assert first.outcomes[0].images == other.outcomes[0].images
        assert first.entry["num_images"] == other.entry["num_images"]
