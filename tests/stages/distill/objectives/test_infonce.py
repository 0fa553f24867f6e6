"""InfoNCE: CLIP's symmetric cross-entropy, its scale, and what is a positive and what a negative."""

import math
from typing import Any

import pytest
import torch
from objective_samples import TableCorpus, unit
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives import build_objective
from stages.distill.objectives.parts.negatives import CorpusDraw

DIM = 5


def embeddings(seed: int, rows: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    return 3 * torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def build(**options: Any) -> nn.Module:
    return build_objective("infonce", dim=DIM, **options)


def slow_direction(
    queries: Tensor, keys: Tensor, positives: list[list[int]], *, scale: Tensor | float, smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of each query against its positives among the keys, by loops."""
    total = torch.zeros((), dtype=torch.float64)
    for query, own in zip(queries, positives, strict=True):
        exponentials = [torch.exp(scale * (query @ key)) for key in keys]
        losses = [-torch.log(one / sum(exponentials)) for one in exponentials]
        total = total + (1 - smoothing) * sum(losses[place] for place in own) / len(own)
        total = total + smoothing * sum(losses) / len(losses)
    return total / len(queries)


def slow_infonce(
    student: Tensor,
    teacher: Tensor,
    *,
    scale: Tensor | float,
    positives: list[list[int]] | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    positives = positives or [[pair] for pair in range(len(student))]
    s, t = unit(student), unit(teacher)
    to_text = slow_direction(s, t, positives, scale=scale, smoothing=smoothing)
    return (to_text + slow_direction(t, s, positives, scale=scale, smoothing=smoothing)) / 2


def assert_same(loss: Tensor, expected: Tensor, student: Tensor, *, rtol: float = 1e-6) -> None:
    torch.testing.assert_close(loss.double(), expected, rtol=rtol, atol=1e-7)
    gradients = [torch.autograd.grad(value, student, retain_graph=True)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_infonce__has_value_and_gradients_of_the_formula(smoothing: float) -> None:
    student, teacher = embeddings(1).requires_grad_(), embeddings(2)
    objective = build(temperature=0.4, label_smoothing=smoothing)
    loss = objective(student=student, teacher=teacher)
    log_scale = objective.logit_scale.detach().double().requires_grad_()
    expected = slow_infonce(student, teacher, scale=log_scale.exp(), smoothing=smoothing)
    assert_same(loss, expected, student)
    loss.backward()
    torch.testing.assert_close(
        objective.logit_scale.grad.double(), torch.autograd.grad(expected, log_scale)[0], rtol=1e-5, atol=1e-7
    )


def test_infonce__starts_at_a_temperature_of_0_07_that_is_learnt_unless_told() -> None:
    student, teacher = embeddings(1, dtype=torch.float32).requires_grad_(), embeddings(2, dtype=torch.float32)
    objective = build()
    loss = objective(student=student, teacher=teacher)
    assert_same(loss, slow_infonce(student, teacher, scale=1 / 0.07), student, rtol=1e-4)
    assert objective.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    assert objective.logit_scale.requires_grad
    assert not build(learn_temperature=False).logit_scale.requires_grad
    assert objective.max_scale == 100


def test_infonce__ignores_the_lengths_of_embeddings() -> None:
    student, teacher = embeddings(1), embeddings(2)
    torch.testing.assert_close(
        build()(student=100 * student, teacher=teacher / 100), build()(student=student, teacher=teacher)
    )


def test_infonce__is_the_logarithm_of_the_batch_where_all_pairs_are_alike() -> None:
    alike = embeddings(1)[[0, 0, 0, 0]]
    assert build()(student=alike, teacher=alike).item() == pytest.approx(math.log(4))


def test_infonce__never_exceeds_its_greatest_scale() -> None:
    student, teacher = embeddings(1), embeddings(2)
    objective = build(max_scale=20.0)
    for mode in (False, True):
        with torch.no_grad():
            objective.logit_scale.fill_(10)
        loss = objective.train(mode)(student=student, teacher=teacher)
        torch.testing.assert_close(loss, slow_infonce(student, teacher, scale=20), rtol=1e-5, atol=0)
        assert objective.logit_scale.item() == pytest.approx(math.log(20) if mode else 10)


def test_infonce__comes_back_from_its_greatest_scale() -> None:
    objective = build(max_scale=20.0)
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    with torch.no_grad():
        objective.logit_scale.fill_(10)
    for _ in range(3):  # no image fits its caption, so a lower scale is a lower loss
        objective(student=embeddings(1), teacher=-embeddings(1)).backward()
        assert objective.logit_scale.grad > 0
        optimizer.step()
        optimizer.zero_grad()
    assert objective.logit_scale < math.log(20) - 0.3


def test_infonce__gives_gradients_for_two_batches_at_once() -> None:
    objective = build()
    with torch.no_grad():
        objective.logit_scale.fill_(10)
    losses = [objective(student=embeddings(seed), teacher=embeddings(seed + 1)) for seed in (1, 3)]
    sum(losses).backward()
    assert objective.logit_scale.grad.isfinite()


def test_infonce__takes_equal_captions_for_negatives_unless_told() -> None:
    student, teacher = embeddings(1).requires_grad_(), embeddings(2)[[0, 1, 0, 2]]
    rows = torch.tensor([7, 3, 7, 9])
    loss = build(temperature=0.4)(student=student, teacher=teacher, rows=rows)
    assert_same(loss, slow_infonce(student, teacher, scale=1 / 0.4), student)


@pytest.mark.parametrize("with_rows", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_infonce__shares_the_target_between_equal_captions_where_told(smoothing: float, with_rows: bool) -> None:
    student, teacher = embeddings(1).requires_grad_(), embeddings(2)[[0, 1, 0, 2]]
    rows = torch.tensor([7, 3, 7, 9]) if with_rows else None
    objective = build(temperature=0.4, merge_duplicates=True, label_smoothing=smoothing)
    positives = [[0, 2], [1], [0, 2], [3]]
    expected = slow_infonce(student, teacher, scale=1 / 0.4, positives=positives, smoothing=smoothing)
    assert_same(objective(student=student, teacher=teacher, rows=rows), expected, student)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_infonce__tells_images_from_the_corpus_without_their_own_caption(smoothing: float) -> None:
    corpus = TableCorpus(embeddings(3, rows=6))
    objective = build(corpus=corpus, corpus_negatives=10, temperature=0.4, label_smoothing=smoothing)
    own = [5, 0, 5, 2]
    student, teacher = embeddings(1).requires_grad_(), corpus.table[own]
    s, t = unit(student), unit(teacher)
    options = {"scale": 1 / 0.4, "smoothing": smoothing}

    def expected(left_out: list[int]) -> Tensor:
        to_text = torch.zeros((), dtype=torch.float64)
        for pair, row in enumerate(left_out):
            others = [key for place, key in enumerate(unit(corpus.table)) if place != row]
            to_text = to_text + slow_direction(s[pair : pair + 1], torch.stack([*t, *others]), [[pair]], **options) / 4
        return (to_text + slow_direction(t, s, [[pair] for pair in range(4)], **options)) / 2

    loss = objective(student=student, teacher=teacher, rows=torch.tensor(own))
    assert_same(loss, expected(own), student)
    assert_same(objective(student=student, teacher=teacher), expected([-1] * 4), student)


def test_infonce__draws_other_captions_at_every_step_of_training_only() -> None:
    corpus = TableCorpus(embeddings(3, rows=200))
    objective = build(corpus=corpus, corpus_negatives=7)
    batch = {"student": embeddings(1), "teacher": embeddings(2), "rows": torch.arange(4)}
    objective.eval()
    assert torch.equal(objective(**batch), objective(**batch))
    objective.train()
    first, second = objective(**batch), objective(**batch)
    assert not torch.equal(first, second)
    restored = build(corpus=corpus, corpus_negatives=7)
    assert torch.equal(restored(**batch), first)
    restored.load_state_dict(objective.state_dict())
    assert torch.equal(restored(**batch), objective(**batch))


def test_infonce__takes_as_many_captions_of_the_corpus_as_told() -> None:
    negatives = build(corpus=TableCorpus(embeddings(3, rows=20)), corpus_negatives=7).negatives
    assert isinstance(negatives, CorpusDraw)
    keys, rows = negatives.keys()
    assert keys.shape == (7, DIM)
    assert len(rows.unique()) == 7


def test_infonce__computes_in_float32_under_autocast() -> None:
    batch = {"student": embeddings(1, dtype=torch.float32), "teacher": embeddings(2, dtype=torch.float32)}
    expected = build()(**batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = build()(**batch)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


CORPUS = TableCorpus(embeddings(7, rows=9))
CAPTIONS, IMAGES = [0, 1, 2, 3, 0, 4], [0, 0, 1, 2, 3, 3]  # the first two show one image, as do the last two


def slow_contrast(
    scores: Tensor, positives: Tensor, left_out: Tensor, *, beta: float, smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy of rows, by loops: raised negatives, some left out, positives in equal shares."""
    total = torch.zeros((), dtype=torch.float64)
    for row, own, out in zip(scores, positives, left_out, strict=True):
        terms = [
            torch.exp(score) * (1.0 if is_own else math.exp(beta * score.item()))
            for score, is_own, is_out in zip(row, own, out, strict=True)
            if not is_out
        ]
        is_own = [bool(one) for one, is_out in zip(own, out, strict=True) if not is_out]
        losses = [torch.log(sum(terms)) - torch.log(term) for term in terms]
        share = sum(loss for loss, one in zip(losses, is_own, strict=True) if one) / sum(is_own)
        total = total + (1 - smoothing) * share + smoothing * sum(losses) / len(losses)
    return total / len(scores)


def expected_loss(
    student: Tensor, *, beta: float, spare: float, smoothing: float, images: bool, corpus: bool
) -> Tensor:
    rows, numbers = torch.tensor(CAPTIONS), torch.tensor(IMAGES)
    table = unit(CORPUS.table)
    captions, scores = table[rows], unit(student) @ table.T / 0.4
    positives = torch.eye(6, dtype=torch.bool)
    if images:
        positives = numbers[:, None] == numbers
    spared = (captions @ captions.T > spare) & ~positives
    to_image = slow_contrast(scores[:, rows].T, positives, spared, beta=beta, smoothing=smoothing)
    keys = torch.arange(9 if corpus else 0)
    own = positives.double() @ (rows[:, None] == keys).double() > 0
    to_text = slow_contrast(
        torch.cat([scores[:, rows], scores[:, keys]], dim=1),
        torch.cat([positives, torch.zeros(6, len(keys), dtype=torch.bool)], dim=1),
        torch.cat([spared, own | (captions @ table[keys].T > spare)], dim=1),
        beta=beta,
        smoothing=smoothing,
    )
    return (to_text + to_image) / 2


@pytest.mark.parametrize("corpus", [False, True])
@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize(
    ("beta", "spare", "smoothing"), [(1.0, 1.0, 0.0), (0.0, 0.1, 0.0), (1.0, 0.1, 0.0), (0.7, 0.1, 0.3)]
)
def test_infonce__raises_negatives_spares_near_captions_and_merges_images(
    beta: float, spare: float, smoothing: float, images: bool, corpus: bool
) -> None:
    objective = build(
        corpus=CORPUS,
        corpus_negatives=20 if corpus else 0,
        temperature=0.4,
        learn_temperature=False,
        hard_negatives=beta,
        spare_above=spare,
        merge_images=images,
        label_smoothing=smoothing,
    )
    student, rows = embeddings(1, rows=6).requires_grad_(), torch.tensor(CAPTIONS)
    loss = objective(student=student, teacher=CORPUS.table[rows], rows=rows, images=torch.tensor(IMAGES))
    # Equal captions, the first and the fifth, are near ones of one another: 1.0 spares none, rounding or not.
    expected = expected_loss(
        student, beta=beta, spare=2.0 if spare == 1 else spare, smoothing=smoothing, images=images, corpus=corpus
    )
    assert_same(loss, expected, student)


def test_infonce__has_the_gradient_of_its_value_where_near_captions_are_spared() -> None:
    objective = build(temperature=0.4, spare_above=0.1, merge_images=True, label_smoothing=0.1).double()
    teacher, images = embeddings(2, rows=6), torch.tensor(IMAGES)

    def loss(student: Tensor) -> Tensor:
        value: Tensor = objective(student=student, teacher=teacher, images=images)
        return value

    assert torch.autograd.gradcheck(loss, (embeddings(1, rows=6).requires_grad_(),))


def test_infonce__refuses_hard_negatives_with_a_learnt_temperature() -> None:
    with pytest.raises(ProtoRKDError, match=r"hard_negatives .* fixed temperature; got 1\.0 .*learn-temperature=false"):
        build(hard_negatives=1.0)


def test_infonce__refuses_to_merge_images_that_it_is_not_told() -> None:
    with pytest.raises(ProtoRKDError, match="images must be given where merge_images is true"):
        build(merge_images=True)(student=embeddings(1), teacher=embeddings(2))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", 0.0),
        ("temperature", math.nan),
        ("temperature", 0.009),
        ("max_scale", math.inf),
        ("label_smoothing", 1.0),
        ("label_smoothing", -0.1),
        ("corpus_negatives", -1),
        ("corpus_negatives", 5),
        ("hard_negatives", -1.0),
        ("hard_negatives", math.inf),
        ("spare_above", 0.0),
        ("spare_above", 1.5),
    ],
)
def test_infonce__refuses_options_without_meaning(option: str, value: float) -> None:
    with pytest.raises(ProtoRKDError, match=rf"{option} of infonce must .*; got {value}"):
        build(**{option: value})
