from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from data_schemas.errors import ProtoRKDError
from stages.components.metrics.retrieval import (
    chance_recall,
    retrieval_metrics,
    retrieval_ranks,
    retrieval_standings,
    top_captions,
    top_images,
)


def naive_hit(scores: list[float], right: set[int], k: int) -> float:
    """Enumerate every way in which the candidates that share the last place within k can be drawn."""
    ordered = sorted(set(scores), reverse=True)
    taken: list[int] = []
    for score in ordered:
        level = [index for index, value in enumerate(scores) if value == score]
        if len(taken) + len(level) <= k:
            taken += level
            continue
        draws = list(combinations(level, k - len(taken)))
        return sum(bool(right & {*taken, *draw}) for draw in draws) / len(draws)
    return float(bool(right & set(taken)))


def naive_metrics(images: Tensor, captions: Tensor, caption_image: Tensor, ks: tuple[int, ...]) -> dict[str, float]:
    def cosine(left: Tensor, right: Tensor) -> float:
        norms = float(left.double().norm() * right.double().norm())
        return round(float(left.double() @ right.double()) / norms, 9) if norms else 0.0

    table = [[cosine(caption, image) for image in images] for caption in captions]
    metrics = {}
    for k in ks:
        hits = [naive_hit(row, {int(own)}, k) for row, own in zip(table, caption_image, strict=True)]
        metrics[f"text_to_image/recall@{k}"] = 100 * float(np.mean(hits))
    for k in ks:
        hits = [
            naive_hit([row[image] for row in table], set((caption_image == image).nonzero().flatten().tolist()), k)
            for image in range(len(images))
        ]
        metrics[f"image_to_text/recall@{k}"] = 100 * float(np.mean(hits))
    return metrics


def some_pairs(seed: int, *, num_images: int = 7, num_captions: int = 17) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    extra = torch.randint(num_images, (num_captions - num_images,), generator=generator)
    caption_image = torch.cat([torch.arange(num_images), extra])
    images = torch.randn(num_images, 5, generator=generator)
    return images, torch.randn(num_captions, 5, generator=generator), caption_image


def measure(images: Tensor, captions: Tensor, caption_image: Tensor, **options: Any) -> dict[str, float]:
    return retrieval_metrics(
        image_embeddings=images,
        caption_embeddings=captions,
        caption_image=caption_image,
        **options,
    )


@pytest.mark.parametrize("seed", range(3))
def test_retrieval_metrics__agree_with_enumeration(seed: int) -> None:
    pairs = some_pairs(seed)
    ks = (1, 2, 5)
    expected = naive_metrics(*pairs, ks)
    found = measure(*pairs, ks=ks)
    assert {key: found[key] for key in expected} == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_retrieval_metrics__give_the_mean_over_all_orders_of_tied_candidates(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    _, _, caption_image = some_pairs(seed)
    images = torch.randint(2, (7, 2), generator=generator).float()  # also zero rows
    captions = torch.randint(2, (17, 2), generator=generator).float()
    ks = (1, 3, 6)
    expected = naive_metrics(images, captions, caption_image, ks)
    found = measure(images, captions, caption_image, ks=ks, block=4)
    assert {key: found[key] for key in expected} == pytest.approx(expected)


def test_retrieval_metrics__have_the_documented_names() -> None:
    expected = {
        *(f"{way}/recall@{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)),
        *("text_to_image/median_rank", "image_to_text/median_rank", "mean_recall"),
    }
    metrics = measure(*some_pairs(0))
    assert metrics.keys() == expected
    recalls = [value for key, value in metrics.items() if "recall@" in key]
    assert metrics["mean_recall"] == pytest.approx(np.mean(recalls))


def test_retrieval_metrics__are_perfect_for_a_perfect_student() -> None:
    images, _, caption_image = some_pairs(0)
    metrics = measure(images, 3 * images[caption_image], caption_image)
    assert {value for key, value in metrics.items() if "recall" in key} == {100.0}
    assert metrics["text_to_image/median_rank"] == metrics["image_to_text/median_rank"] == 1.0


@pytest.mark.parametrize("block", [1, 3, 16, 1000])
def test_retrieval_metrics__do_not_depend_on_the_block(block: int) -> None:
    pairs = some_pairs(1)
    assert measure(*pairs, block=block) == measure(*pairs)


def test_retrieval_metrics__do_not_depend_on_scale_or_order() -> None:
    images, captions, caption_image = some_pairs(2)
    expected = measure(images, captions, caption_image)
    order = torch.randperm(len(captions), generator=torch.Generator().manual_seed(0))
    assert measure(images * 1e25, captions * 1e-25, caption_image) == expected
    assert measure(images, captions[order], caption_image[order]) == pytest.approx(expected)


@pytest.mark.parametrize("dim", [3, 384, 768])
def test_retrieval_metrics__score_a_collapsed_student_as_chance(dim: int) -> None:
    _, _, caption_image = some_pairs(3, num_images=130, num_captions=301)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, dim, generator=generator).repeat(130, 1)
    images *= torch.rand(130, 1, generator=generator) + 0.5  # equal but for their length
    captions = torch.randn(1, dim, generator=generator).repeat(301, 1)
    chance = chance_recall(caption_image=caption_image, num_images=130)
    assert measure(images, captions, caption_image, block=64) == pytest.approx(chance)


def test_retrieval_metrics__count_a_zero_vector_as_cosine_zero() -> None:
    _, captions, caption_image = some_pairs(4)
    chance = chance_recall(caption_image=caption_image, num_images=7)
    assert measure(torch.zeros(7, 5), captions, caption_image) == pytest.approx(chance)


def naive_expected_rank(scores: list[float], right: set[int]) -> float:
    """Place of the first right one, from 1, as the mean over all orders of the candidates that share its score."""
    best = max(scores[index] for index in right)
    level = [index for index, value in enumerate(scores) if value == best]
    first = [1 + min(place for place, index in enumerate(order) if index in right) for order in permutations(level)]
    return float(np.mean(first)) + sum(value > best for value in scores)


def rounded_table(images: Tensor, captions: Tensor) -> list[list[float]]:
    """Cosines, (captions, images), in which rounding no longer tells equal ones apart."""
    cosines = functional.cosine_similarity(captions[:, None].double(), images[None].double(), dim=2)
    return [[round(value, 9) for value in row] for row in cosines.tolist()]


@pytest.mark.parametrize("values", [1000, 2])
def test_retrieval_ranks__are_the_mean_over_all_orders_of_tied_candidates(values: int) -> None:
    generator = torch.Generator().manual_seed(8)
    caption_image = torch.tensor([0, 2, 1, 1, 0, 3, 2, 1])
    images = torch.randint(values, (4, 3), generator=generator).float()
    captions = torch.randint(values, (8, 3), generator=generator).float()
    table = rounded_table(images, captions)
    ranks = retrieval_ranks(image_embeddings=images, caption_embeddings=captions, caption_image=caption_image, block=3)
    assert ranks.captions.shape == (8,)
    assert ranks.images.shape == (4,)
    assert ranks.captions.dtype == ranks.images.dtype == torch.float64
    own = caption_image.tolist()
    assert ranks.captions.tolist() == pytest.approx(
        [naive_expected_rank(row, {image}) for row, image in zip(table, own, strict=True)]
    )
    assert ranks.images.tolist() == pytest.approx(
        [
            naive_expected_rank([row[image] for row in table], {c for c, each in enumerate(own) if each == image})
            for image in range(4)
        ]
    )


def test_retrieval_metrics__count_any_of_five_captions_as_in_the_usual_protocol() -> None:
    generator = torch.Generator().manual_seed(9)
    images = torch.randn(40, 8, generator=generator)
    caption_image = torch.arange(40).repeat_interleave(5)
    captions = images[caption_image] + 2 * torch.randn(200, 8, generator=generator)
    table = np.array(rounded_table(images, captions))
    metrics = measure(images, captions, caption_image, block=32)
    for k in (1, 5, 10):
        found_images = [own in np.argsort(-row)[:k] for row, own in zip(table, caption_image.tolist(), strict=True)]
        found_captions = [image in np.argsort(-table[:, image])[:k] // 5 for image in range(40)]
        assert metrics[f"text_to_image/recall@{k}"] == pytest.approx(100 * np.mean(found_images))
        assert metrics[f"image_to_text/recall@{k}"] == pytest.approx(100 * np.mean(found_captions))


def test_retrieval_standings__give_metrics_and_what_they_are_the_means_of() -> None:
    images, captions, caption_image = some_pairs(10)
    images[3] = images[4]
    standings = retrieval_standings(image_embeddings=images, caption_embeddings=captions, caption_image=caption_image)
    ranks = retrieval_ranks(image_embeddings=images, caption_embeddings=captions, caption_image=caption_image)
    metrics = standings.metrics(ks=(1, 3))
    assert metrics == measure(images, captions, caption_image, ks=(1, 3))
    for direction, own, of_direction in (
        ("text_to_image", standings.text_to_image, ranks.captions),
        ("image_to_text", standings.image_to_text, ranks.images),
    ):
        assert torch.equal(own.ranks(), of_direction)
        assert metrics[f"{direction}/median_rank"] == np.median(of_direction.numpy())
        for k in (1, 3):
            assert own.hits(k=k).shape == of_direction.shape
            assert metrics[f"{direction}/recall@{k}"] == 100 * own.hits(k=k).mean()


def test_retrieval_metrics__refuse_a_cut_off_below_one() -> None:
    for ks in ((), (0, 1)):
        with pytest.raises(ValueError, match="whole numbers from 1"):
            measure(*some_pairs(0), ks=ks)


@pytest.mark.parametrize("num_images", [6, 20])
def test_chance_recall__is_the_mean_of_random_students(num_images: int) -> None:
    generator = torch.Generator().manual_seed(0)
    extra = torch.randint(num_images, (num_images,), generator=generator)
    caption_image = torch.cat([torch.arange(num_images), extra])
    runs = [
        measure(
            torch.randn(num_images, 64, generator=generator),
            torch.randn(2 * num_images, 64, generator=generator),
            caption_image,
        )
        for _ in range(300)
    ]
    chance = chance_recall(caption_image=caption_image, num_images=num_images)
    for key in ("text_to_image/recall@1", "text_to_image/recall@5", "image_to_text/recall@1", "image_to_text/recall@5"):
        assert np.mean([run[key] for run in runs]) == pytest.approx(chance[key], abs=4.0)


def test_chance_recall__is_k_of_n_for_one_caption_an_image() -> None:
    chance = chance_recall(caption_image=torch.arange(40), num_images=40)
    assert chance["text_to_image/recall@10"] == chance["image_to_text/recall@10"] == pytest.approx(25.0)
    assert chance["text_to_image/median_rank"] == chance["image_to_text/median_rank"] == 20.5


@pytest.mark.parametrize("side", ["Image", "Caption"])
def test_retrieval_metrics__refuse_embeddings_that_are_not_finite(side: str) -> None:
    images, captions, caption_image = some_pairs(0)
    (images if side == "Image" else captions)[3, 1] = float("nan")
    with pytest.raises(ProtoRKDError, match=rf"{side} embeddings must be finite; got .* in 1 of .* row 3\."):
        measure(images, captions, caption_image)


@pytest.mark.parametrize(
    ("caption_image", "message"),
    [([0, 1, 3], "from 0 to 2"), ([0, 1, -1], "from 0 to 2"), ([0, 1, 1], "none for image 2"), ([0, 1], "shape")],
)
def test_retrieval_metrics__refuse_captions_that_do_not_fit_the_images(caption_image: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(torch.eye(3), torch.eye(3), torch.tensor(caption_image))


def test_retrieval_metrics__refuse_different_widths() -> None:
    with pytest.raises(ValueError, match="one dim"):
        measure(torch.ones(3, 4), torch.ones(3, 5), torch.arange(3))


def test_retrieval_metrics__leave_matmul_precision_as_it_was() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        measure(*some_pairs(0))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_retrieval_metrics__take_half_precision() -> None:
    images, captions, caption_image = some_pairs(5)
    images, captions = images.half(), captions.half()
    assert measure(images, captions, caption_image) == measure(images.float(), captions.float(), caption_image)


def test_top_images__gives_the_nearest_and_the_place_of_the_own_image() -> None:
    images, captions, caption_image = some_pairs(6)
    top = top_images(
        image_embeddings=images,
        caption_embeddings=captions,
        caption_image=caption_image,
        captions=[2, 11, 16],
        k=3,
    )
    assert top.indices.shape == top.scores.shape == (3, 3)
    table = torch.nn.functional.cosine_similarity(captions[:, None], images[None], dim=2)
    for row, caption in enumerate([2, 11, 16]):
        order = table[caption].argsort(descending=True)
        assert top.indices[row].tolist() == order[:3].tolist()
        assert top.ranks[row] == 1 + order.tolist().index(int(caption_image[caption]))
    assert top.scores[0, 0] == pytest.approx(float(table[2].max()))


def test_top_captions__gives_the_nearest_and_the_place_of_the_first_own_caption() -> None:
    images, captions, caption_image = some_pairs(7)
    top = top_captions(
        image_embeddings=images, caption_embeddings=captions, caption_image=caption_image, images=[0, 5], k=4
    )
    assert top.indices.shape == top.scores.shape == (2, 4)
    assert top.ranks.shape == (2,)
    table = torch.nn.functional.cosine_similarity(images[:, None], captions[None], dim=2)
    for row, image in enumerate([0, 5]):
        order = table[image].argsort(descending=True)
        assert top.indices[row].tolist() == order[:4].tolist()
        assert top.ranks[row] == 1 + min((caption_image[order] == image).nonzero().flatten().tolist())


def test_top_images__gives_all_where_k_is_larger() -> None:
    top = top_images(
        image_embeddings=torch.ones(3, 2),
        caption_embeddings=torch.ones(3, 2),
        caption_image=torch.arange(3),
        captions=[1],
        k=9,
    )
    assert top.indices.tolist() == [[0, 1, 2]]  # equal scores come in the order of the rows
    assert top.ranks.tolist() == [2]
