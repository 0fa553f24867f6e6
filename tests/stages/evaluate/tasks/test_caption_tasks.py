import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from task_sets import by_name, embeddings, of_captions, retrieval_set

from stages.evaluate.sets.scored_pairs import ScoredPairs
from stages.evaluate.statistics.bootstrap import bootstrap_mean, bootstrap_median
from stages.evaluate.tasks.caption_tasks import captioned_rows, retrieval, sts

DRAWS: dict[str, Any] = {"seed": 1, "num_resamples": 100}


def naive_ranks(images: torch.Tensor, captions: torch.Tensor, caption_image: list[int]) -> dict[str, np.ndarray]:
    """Ranks by sorting all cosines, one query after another."""
    scores = torch.nn.functional.cosine_similarity(captions[:, None].double(), images[None].double(), dim=2).numpy()
    of_caption = [list(np.argsort(-row)).index(image) + 1 for row, image in zip(scores, caption_image, strict=True)]
    of_image = []
    for image, row in enumerate(scores.T):
        right = [caption for caption, of in enumerate(caption_image) if of == image]
        of_image.append(min(list(np.argsort(-row)).index(caption) + 1 for caption in right))
    return {"text_to_image": np.array(of_caption), "image_to_text": np.array(of_image)}


def test_retrieval__agrees_with_a_naive_search() -> None:
    found, images, captions = retrieval_set()
    measured = retrieval(found, embeddings(images), of_captions(found, captions), **DRAWS)
    metrics = measured.entry["metrics"]
    ranks = naive_ranks(images, captions, list(found.caption_image))
    recalls = {
        f"{direction}/recall@{k}": 100 * np.mean(each <= k) for direction, each in ranks.items() for k in (1, 5, 10)
    }
    medians = {f"{direction}/median_rank": np.median(each) for direction, each in ranks.items()}
    assert metrics == pytest.approx(recalls | medians | {"mean_recall": np.mean(list(recalls.values()))})
    assert list(metrics) == list(measured.entry["intervals"]) == list(measured.entry["chance"])
    for outcomes in measured.outcomes:
        np.testing.assert_array_equal(outcomes.measures["rank"], ranks[outcomes.task])
        np.testing.assert_array_equal(outcomes.measures["recall@5"], ranks[outcomes.task] <= 5)
    assert measured.entry["num_images"] == 60
    assert measured.entry["num_captions"] == 180
    assert measured.flat().keys() == {f"pairs/{name}" for name in metrics}
    json.dumps(measured.entry, allow_nan=False)


def test_retrieval__embeds_captions_that_look_for_their_image_apart_where_told_to() -> None:
    found, images, captions = retrieval_set()
    queries = captions.roll(1, dims=1)
    plain = retrieval(found, embeddings(images), of_captions(found, captions), **DRAWS)
    measured = retrieval(
        found, embeddings(images), of_captions(found, captions), embed_queries=of_captions(found, queries), **DRAWS
    )
    as_queries = naive_ranks(images, queries, list(found.caption_image))["text_to_image"]
    of_text, of_image = measured.outcomes
    np.testing.assert_array_equal(of_text.measures["rank"], as_queries)
    np.testing.assert_array_equal(of_image.measures["rank"], plain.outcomes[1].measures["rank"])
    assert not np.array_equal(as_queries, plain.outcomes[0].measures["rank"])


def test_retrieval__has_a_row_a_caption_and_a_row_an_image() -> None:
    pairs, images, captions = retrieval_set()
    of_text, of_image = retrieval(pairs, embeddings(images), of_captions(pairs, captions), **DRAWS).outcomes
    paths = pairs.images.value.paths
    assert (of_text.name, of_image.name) == ("pairs/text_to_image", "pairs/image_to_text")
    assert of_text.images == [paths[image] for image in pairs.caption_image]
    assert list(of_text.queries) == list(pairs.captions)
    assert (of_image.images, len(of_image.queries)) == (paths, 0)


def test_retrieval__draws_images_with_all_their_captions() -> None:
    found, images, captions = retrieval_set()
    measured = retrieval(found, embeddings(images), of_captions(found, captions), **DRAWS)
    of_text, of_image = measured.outcomes
    intervals = measured.entry["intervals"]
    names = np.array(of_text.images)
    expected = bootstrap_mean(100 * of_text.measures["recall@1"], groups=names, **DRAWS)
    assert intervals["text_to_image/recall@1"] == expected._asdict()
    expected = bootstrap_median(of_text.measures["rank"], groups=names, **DRAWS)
    assert intervals["text_to_image/median_rank"] == expected._asdict()
    expected = bootstrap_mean(100 * of_image.measures["recall@10"], groups=np.array(of_image.images), **DRAWS)
    assert intervals["image_to_text/recall@10"] == expected._asdict()


def test_mean_recall__is_measured_on_the_same_images_both_ways() -> None:
    found, images, captions = retrieval_set()
    measured = retrieval(found, embeddings(images), of_captions(found, captions), **DRAWS)
    paths = sorted(found.images.value.paths)
    means = []
    draws = np.random.default_rng(DRAWS["seed"]).integers(60, size=(100, 60))
    for drawn in draws:
        recalls = []
        for outcomes in measured.outcomes:
            rows = [row for image in drawn for row in np.flatnonzero(np.array(outcomes.images) == paths[image])]
            recalls += [100 * outcomes.measures[f"recall@{k}"][rows].mean() for k in (1, 5, 10)]
        means.append(np.mean(recalls))
    interval = measured.entry["intervals"]["mean_recall"]
    assert [interval["low"], interval["high"]] == pytest.approx(np.percentile(means, [2.5, 97.5]))
    assert interval["num_pictures"] == 60


def test_retrieval__leaves_out_captions_of_images_that_cannot_be_read() -> None:
    pairs, images, captions = retrieval_set(20)
    read = [row for row in range(20) if row not in (0, 7)]
    kept = [row for row, image in enumerate(pairs.caption_image) if image in read]
    measured = retrieval(pairs, embeddings(images, unread=(0, 7)), of_captions(pairs, captions), **DRAWS)
    of_text, of_image = measured.outcomes
    assert list(of_text.queries) == [pairs.captions[row] for row in kept]
    assert of_image.images == [pairs.images.value.paths[row] for row in read]
    ranks = naive_ranks(images[read], captions[kept], [read.index(pairs.caption_image[row]) for row in kept])
    np.testing.assert_array_equal(of_text.measures["rank"], ranks["text_to_image"])
    np.testing.assert_array_equal(of_image.measures["rank"], ranks["image_to_text"])
    sizes = [measured.entry[key] for key in ("num_images", "num_captions", "rejected", "first_rejected")]
    assert sizes == [18, 54, 2, "0.jpg: truncated"]


def test_retrieval__scores_a_collapsed_student_as_chance() -> None:
    found, _, captions = retrieval_set(20)
    measured = retrieval(found, embeddings(torch.zeros(20, 6)), of_captions(found, captions), **DRAWS)
    assert measured.entry["metrics"] == pytest.approx(measured.entry["chance"])
    assert measured.outcomes[0].measures["recall@1"] == pytest.approx(np.full(60, 1 / 20))


def test_retrieval__takes_a_caption_that_an_image_has_twice() -> None:
    found, images, captions = retrieval_set(10)
    twice = replace(found, captions=(*found.captions[:10], *found.captions[:10], *found.captions[20:]))
    embed = by_name(dict(zip(twice.captions, captions, strict=True)))
    of_text, _ = retrieval(twice, embeddings(images), embed, **DRAWS).outcomes
    keys = list(zip(of_text.images, of_text.queries, strict=True))
    assert (len(keys), len(set(keys))) == (30, 20)


def test_captioned_rows__take_images_with_their_captions() -> None:
    found, images, captions = retrieval_set(5, captions=2)
    rows = captioned_rows(found, embeddings(images), of_captions(found, captions))
    part = rows.take(np.array([1, 4]))
    assert torch.equal(part["image_embeddings"], images[[1, 4]])
    assert torch.equal(part["caption_embeddings"], captions[[1, 4, 6, 9]])
    assert part["caption_image"].tolist() == [0, 1, 0, 1]
    whole = rows.take(np.arange(5))
    assert all(torch.equal(whole[name], tensor) for name, tensor in rows.all().items())


def test_sts__agrees_with_scipy_and_draws_pairs() -> None:
    from scipy.stats import pearsonr, spearmanr

    generator = torch.Generator().manual_seed(0)
    first = torch.randn(80, 4, generator=generator)
    second = first + torch.randn(80, 4, generator=generator)
    cosines = torch.nn.functional.cosine_similarity(first.double(), second.double())
    scores = cosines + 0.3 * torch.randn(80, generator=generator)
    rows = torch.cat([first, second])
    texts = tuple(f"caption {row}" for row in range(160))
    pairs = ScoredPairs(texts[:80], texts[80:], tuple(scores.tolist()))
    measured = sts("stsb", pairs, by_name(dict(zip(texts, rows, strict=True))), seed=0, num_resamples=300)
    entry = measured.entry
    expected = {"spearman": spearmanr(cosines, scores).statistic, "pearson": pearsonr(cosines, scores).statistic}
    assert entry["metrics"] == pytest.approx(expected, abs=1e-5)
    assert (entry["name"], entry["task"], entry["num_pairs"], entry["rejected"]) == ("stsb", "sts", 80, 0)
    # Fisher's z, the textbook's interval of a correlation
    centre, reach = np.arctanh(expected["pearson"]), 1.96 / 77**0.5
    interval = entry["intervals"]["pearson"]
    assert [interval["low"], interval["high"]] == pytest.approx(np.tanh([centre - reach, centre + reach]), abs=0.06)
    assert interval["num_pairs"] == 80
    assert entry["intervals"]["spearman"]["low"] < expected["spearman"] < entry["intervals"]["spearman"]["high"]
    assert measured.flat().keys() == {"stsb/sts/spearman", "stsb/sts/pearson"}
    json.dumps(entry, allow_nan=False)
