"""Retrieval with calibrated scores, against slow second implementations."""

from typing import Any

import numpy as np
import pytest
import torch

from data_schemas.calibration import MIXED, QUERY_BANK, MixedScores, QueryBank, ScoreLevels, ScoreMap
from pipeline.stage import Input
from stages.components.images.image_set import ImageSet
from stages.evaluate.embeddings.cached_embeddings import ImageEmbeddings
from stages.evaluate.metrics.mixed_index import mixed_standings
from stages.evaluate.sets.evaluation_sets import RetrievalSet
from stages.evaluate.tasks.caption_tasks import retrieval
from stages.evaluate.tasks.registry import TASKS

NUM, DIM = 40, 6
SCORES = MixedScores(ScoreLevels(0.1, 0.3), ScoreLevels(0.2, 0.6), ScoreLevels(0.3, 0.5), ScoreLevels(0.1, 0.2))


def unit(num: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(num, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


IMAGES, CAPTIONS, BANK = unit(NUM, 0), unit(NUM, 1), QueryBank(unit(30, 2), 0.05)


class Embeddings:
    """What a checkpoint and its teacher give: images and captions as above, twice as long."""

    def __init__(self) -> None:
        self.prompts: list[str | None] = []

    def images(self, _images: object) -> ImageEmbeddings:
        rows = torch.from_numpy(2 * IMAGES)
        return ImageEmbeddings(rows, rows, torch.arange(NUM), (), digest="", precision="fp32")

    def captions(self, _captions: object, *, prompt: str | None = None) -> torch.Tensor:
        self.prompts.append(prompt)
        return torch.from_numpy(2 * CAPTIONS)

    def calibration(self, kind: str) -> QueryBank | MixedScores:
        return {QUERY_BANK: BANK, MIXED: SCORES}[kind]


def the_set() -> RetrievalSet:
    names = [f"{number}.jpg" for number in range(NUM)]
    images: Any = Input("0", value=ImageSet(root=None, paths=names))  # type: ignore[arg-type]
    return RetrievalSet("pairs", images, tuple(names), tuple(range(NUM)), ())


def measure(task: str, embeddings: Embeddings | None = None, **options: Any) -> dict[str, Any]:
    return TASKS[task](the_set(), embeddings or Embeddings(), seed=0, num_resamples=100, **options).entry


def recall(scores: np.ndarray, k: int) -> float:
    own = np.diag(scores)[:, None]
    return float(100 * ((scores > own).sum(axis=1) < k).mean())


def test_query_bank__ranks_images_by_the_calibrated_score() -> None:
    bank = np.log(np.exp(BANK.captions @ IMAGES.T / 0.05).mean(axis=0)) * 0.05
    scores = CAPTIONS @ IMAGES.T - bank
    entry = measure("query_bank")
    for k in (1, 5, 10):
        assert entry["metrics"][f"text_to_image/recall@{k}"] == pytest.approx(recall(scores, k))
    assert entry["num_bank_captions"] == 30


def test_query_bank__changes_nothing_from_an_images_place() -> None:
    embeddings = Embeddings()
    raw = retrieval(the_set(), embeddings.images(None), embeddings.captions, seed=0, num_resamples=100).entry
    calibrated = measure("query_bank")
    for k in (1, 5, 10):
        name = f"image_to_text/recall@{k}"
        assert calibrated["metrics"][name] == pytest.approx(raw["metrics"][name])
    assert calibrated["metrics"]["mean_recall"] != raw["metrics"]["mean_recall"]
    assert calibrated["metrics"].keys() == raw["metrics"].keys()


def test_mixed__looks_for_the_own_image_among_images_and_captions() -> None:
    entry = measure("mixed")
    slope = (0.6 - 0.2) / (0.3 - 0.1)
    for name, of_images in (
        ("raw", CAPTIONS @ IMAGES.T),
        ("calibrated", slope * (CAPTIONS @ IMAGES.T) + 0.2 - slope * 0.1),
    ):
        scores = np.concatenate([of_images, CAPTIONS @ CAPTIONS.T], axis=1)
        first = np.argsort(-scores, axis=1)
        for k in (1, 5, 10):
            own = 100 * np.mean([row in first[row, :k] for row in range(NUM)])
            assert entry["metrics"][f"{name}/own_image@{k}"] == pytest.approx(own)
        assert entry["metrics"][f"{name}/image_share@10"] == pytest.approx(100 * (first[:, :10] < NUM).mean())
        low, high, num = entry["intervals"][f"{name}/own_image@10"].values()
        assert low <= entry["metrics"][f"{name}/own_image@10"] <= high
        assert num == NUM
    assert entry["chance"]["raw/own_image@10"] == pytest.approx(100 * 10 / 80)
    assert entry["chance"]["raw/image_share@10"] == 50


@pytest.mark.parametrize("task", ["query_bank", "mixed"])
def test_calibrated__take_the_prompt_of_queries(task: str) -> None:
    embeddings = Embeddings()
    assert measure(task, embeddings, query_prompt="find: ")["query_prompt"] == "find: "
    assert set(embeddings.prompts) == {None, "find: "}


def test_mixed_standings__count_ties_as_the_mean_over_their_orders_and_do_not_depend_on_blocks() -> None:
    same = torch.nn.functional.normalize(torch.ones(4, 3), dim=1)
    arguments: dict[str, Any] = {
        "queries": same,
        "images": same,
        "captions": same,
        "caption_image": torch.arange(4),
        "scores": ScoreMap(),
    }
    found = mixed_standings(**arguments)
    assert found.own_image.hits(k=2).tolist() == pytest.approx([2 / 8] * 4)
    again = mixed_standings(**arguments, block=3)
    assert torch.equal(again.own_image.tied, found.own_image.tied)
