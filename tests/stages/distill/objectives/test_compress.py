"""CompRess with one queue and with two: the paper's divergence, step after step."""

import math
from typing import Any

import pytest
import torch
from objective_samples import TableCorpus, unit
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives import build_objective

DIM, QUEUE = 5, 7

both = pytest.mark.parametrize("name", ["compress-1q", "compress-2q"])


def embeddings(seed: int, rows: int = 4, dim: int = DIM) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def build(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_objective(name, **{"dim": DIM, "queue_size": QUEUE, **options})


def slow_compress(
    student: Tensor, teacher: Tensor, student_keys: Tensor, teacher_keys: Tensor, *, temperature: float = 0.04
) -> Tensor:
    """Return the divergence of arXiv:2010.14713, term by term in float64, on unit rows."""
    total = torch.zeros((), dtype=torch.float64)
    for s, t in zip(unit(student), unit(teacher), strict=True):
        p = [torch.exp(t @ key / temperature) for key in teacher_keys]
        q = [torch.exp(s @ key / temperature) for key in student_keys]
        for p_k, q_k in zip(p, q, strict=True):
            total = total + p_k / sum(p) * torch.log((p_k / sum(p)) / (q_k / sum(q)))
    return total / len(student)


@both
def test_compress__has_value_and_gradient_of_the_paper_while_the_queue_turns(name: str) -> None:
    objective = build(name, temperature=0.2)
    two_queues = name == "compress-2q"
    student_keys = teacher_keys = next(iter(objective.state_dict().values())).double()
    for step, rows in enumerate((4, 2, 9, 3)):
        student, teacher = embeddings(step, rows).requires_grad_(), embeddings(step + 10, rows)
        loss = objective(student=student, teacher=teacher)
        expected = slow_compress(student, teacher, student_keys, teacher_keys, temperature=0.2)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-5)
        gradients = [torch.autograd.grad(value, student)[0] for value in (loss, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
        teacher_keys = torch.cat([teacher_keys, unit(teacher)])[-QUEUE:]
        own_keys = torch.cat([student_keys, unit(student.detach())])[-QUEUE:]
        student_keys = own_keys if two_queues else teacher_keys


@both
def test_compress__is_zero_on_agreement_and_above_elsewhere(name: str) -> None:
    objective, teacher = build(name), embeddings(1)
    student = (3 * teacher).requires_grad_()
    loss = objective(student=student, teacher=teacher)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-4
    assert build(name)(student=embeddings(2), teacher=teacher) > 0.1


def test_compress_2q__ignores_rotation_of_the_student_once_its_queue_has_turned_over() -> None:
    rotation = torch.linalg.qr(embeddings(5, DIM)).Q
    one, two = build("compress-1q"), build("compress-2q")
    for seed in range(2):
        teacher = embeddings(seed, QUEUE)
        first, second = (objective(student=teacher @ rotation, teacher=teacher) for objective in (one, two))
    assert first > 0.1
    assert second.item() == pytest.approx(0, abs=1e-5)


@both
def test_compress__compares_with_65536_at_a_temperature_of_0_04_unless_told(name: str) -> None:
    objective = build_objective(name, dim=2)
    assert objective.temperature == 0.04
    assert {len(value) for key, value in objective.state_dict().items() if key.endswith("rows")} == {65536}


@both
def test_compress__starts_with_captions_of_the_corpus(name: str) -> None:
    corpus = TableCorpus(embeddings(3, 20))
    state = build(name, corpus=corpus).state_dict()
    for key in (key for key in state if key.endswith("rows")):
        cosines = state[key].double() @ unit(corpus.table).T
        assert cosines.max(dim=1).values.min() > 1 - 1e-6


def test_compress_1q__scores_against_the_whole_of_a_small_corpus() -> None:
    corpus = TableCorpus(embeddings(3, QUEUE))
    objective = build("compress-1q", corpus=corpus, negatives="corpus", temperature=0.2)
    keys = unit(corpus.table)
    for step in range(2):
        student, teacher = embeddings(step), embeddings(step + 10)
        expected = slow_compress(student, teacher, keys, keys, temperature=0.2)
        torch.testing.assert_close(objective(student=student, teacher=teacher).double(), expected, rtol=1e-4, atol=0)


def test_compress_1q__scores_against_other_captions_at_every_step_of_training() -> None:
    objective = build("compress-1q", corpus=TableCorpus(embeddings(3, 200)), negatives="corpus")
    batch = {"student": embeddings(1), "teacher": embeddings(2)}
    first, second = objective(**batch), objective(**batch)
    assert not torch.equal(first, second)
    objective.load_state_dict(objective.state_dict() | {"negatives.step": torch.tensor(0)})
    assert torch.equal(objective(**batch), first)


@both
def test_compress__keeps_its_state_outside_training(name: str) -> None:
    objective = build(name).eval()
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    objective(student=embeddings(1), teacher=embeddings(2))
    assert all(torch.equal(value, before[key]) for key, value in objective.state_dict().items())


@both
def test_compress__gives_every_call_its_own_gradient_however_late(name: str) -> None:
    at_once, late = build(name), build(name)
    students = [embeddings(seed).requires_grad_() for seed in (1, 2)]
    expected = [torch.autograd.grad(at_once(student=s, teacher=embeddings(3)), s)[0] for s in students]
    losses = [late(student=student, teacher=embeddings(3)) for student in students]
    for gradient, found in zip(torch.autograd.grad(sum(losses), students), expected, strict=True):
        assert torch.equal(gradient, found)


class LargestNewTensor(TorchDispatchMode):
    """Remember the largest tensor that any operation makes in memory other than the module's own."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.own = {tensor.untyped_storage().data_ptr() for tensor in module.state_dict().values()}
        self.num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in self.own:
                self.num_elements = max(self.num_elements, leaf.numel())
        return result


@pytest.mark.parametrize("name", ["compress-1q", "compress-2q", "seed"])
def test_queue_objectives__never_copy_the_queue(name: str) -> None:
    objective = build_objective(name, dim=64, queue_size=500)
    batches = [(embeddings(seed, 4, 64).requires_grad_(), embeddings(seed + 10, 4, 64)) for seed in range(3)]
    with LargestNewTensor(objective) as largest:
        for student, teacher in batches:
            objective(student=student, teacher=teacher).backward()
    assert 4 * 500 <= largest.num_elements <= 4 * 516  # with columns for the own caption and the alignment


def held_by_graph(loss: Tensor) -> list[Tensor]:
    """Return all that the graph behind a loss still holds."""
    tensors, nodes = [], [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        names = [name for name in dir(node) if name.startswith("_saved_")]
        values = [getattr(node, name) for name in names] + list(getattr(node, "saved_tensors", ()))
        tensors += [value for value in values if isinstance(value, Tensor)]
        nodes += [following for following, _ in node.next_functions if following is not None]
    return tensors


@pytest.mark.parametrize("name", ["compress-1q", "compress-2q", "seed"])
def test_queue_objectives__keep_no_scores_for_the_backward_pass(name: str) -> None:
    objective = build_objective(name, dim=8, queue_size=500)
    student = embeddings(1, 4, 8).requires_grad_()
    loss = objective(student=student, teacher=embeddings(2, 4, 8))
    assert max(tensor.numel() for tensor in held_by_graph(loss)) <= 4 * 8


@both
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_compress__refuses_a_temperature_without_meaning(name: str, temperature: float) -> None:
    with pytest.raises(ProtoRKDError, match=f"temperature of {name} must be a finite number above 0; got"):
        build(name, temperature=temperature)


@both
def test_compress__refuses_an_empty_queue_and_another_width(name: str) -> None:
    with pytest.raises(ProtoRKDError, match=f"queue_size of {name} must be at least 1; got 0"):
        build(name, queue_size=0)
    with pytest.raises(ProtoRKDError, match="must have the same width"):
        build(name)(student=embeddings(1)[:, :3], teacher=embeddings(2))


def test_compress_1q__refuses_a_corpus_that_is_not_there() -> None:
    with pytest.raises(ProtoRKDError, match="negatives of compress-1q must be 'queue' where no corpus"):
        build("compress-1q", negatives="corpus")
