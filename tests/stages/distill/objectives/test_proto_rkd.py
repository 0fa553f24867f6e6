"""Prototypical relational distillation: every piece against its formula in loops, alone and together."""

import itertools
import math
from collections.abc import Collection
from typing import Any

import pytest
import torch
from objective_samples import TableCorpus
from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives import build_objective
from stages.distill.objectives.parts.negatives import draw_rows
from stages.distill.objectives.parts.relation_losses import choose_prototypes, column_loss

K, COARSE, DIM, BATCH, CAPTIONS = 6, 3, 4, 5, 40
EVERYTHING = {
    "num_prototypes": K,
    "coarse_prototypes": COARSE,
    "learn_temperature": True,
    "back_translation": True,
    "structure_weight": 0.7,
    "structure_prototypes": 4,
    "own_caption": True,
    "corpus_landmarks": 8,
    "symmetric": 0.3,
}


def rows(seed: int, num: int = BATCH) -> Tensor:
    return torch.randn(num, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def prototypes(num: int) -> Tensor:
    return nn.functional.normalize(rows(num, num)).float()


CORPUS = TableCorpus(rows(99, CAPTIONS).float())


def build(**options: Any) -> Any:
    options = {"num_prototypes": K, **options}
    return build_objective("proto-rkd", dim=DIM, prototypes=prototypes, corpus=CORPUS, **options)


def softmax(scores: list[Tensor]) -> list[Tensor]:
    total = sum(score.exp() for score in scores)
    return [score.exp() / total for score in scores]


def divergence(wanted: list[Tensor], scores: list[Tensor]) -> Tensor:
    return torch.stack([p * (p.log() - q.log()) for p, q in zip(wanted, scores, strict=True)]).sum()


def slow_rows(
    student: Tensor,
    teacher: Tensor,
    landmarks: Tensor,
    translated: Tensor | None = None,
    *,
    tau_t: float = 0.05,
    tau_s: float = 0.07,
    hard: bool = False,
    own: bool = False,
    left_out: Collection[tuple[int, int]] = (),
) -> Tensor:
    """KL(p || q) averaged over the batch, in loops over float64."""
    student, teacher = (nn.functional.normalize(side) for side in (student, teacher))
    translated = landmarks if translated is None else translated
    total = torch.zeros((), dtype=torch.float64)
    for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
        kept = [k for k in range(len(landmarks)) if (i, k) not in left_out]
        wanted = [t @ landmarks[k] / tau_t for k in kept] + ([t @ t / tau_t] if own else [])
        scores = [s @ translated[k] / tau_s for k in kept] + ([s @ t / tau_s] if own else [])
        if hard:
            best = max(range(len(wanted)), key=lambda k: float(wanted[k]))
            total = total - softmax(scores)[best].log()
        else:
            total = total + divergence(softmax(wanted), softmax(scores))
    return total / len(student)


def slow_columns(
    student: Tensor, teacher: Tensor, landmarks: Tensor, *, tau_t: float = 0.05, tau_s: float = 0.07
) -> Tensor:
    student, teacher = (nn.functional.normalize(side) for side in (student, teacher))
    assigned = [softmax([t @ c / tau_t for c in landmarks]) for t in teacher]
    total = torch.zeros((), dtype=torch.float64)
    for k, c in enumerate(landmarks):
        share = sum(each[k] for each in assigned) / len(teacher)
        wanted, given = softmax([t @ c / tau_t for t in teacher]), softmax([s @ c / tau_s for s in student])
        total = total + share * divergence(wanted, given)
    return total


def slow_means(old: Tensor, student: Tensor, teacher: Tensor, landmarks: Tensor, momentum: float = 0.9) -> Tensor:
    student, moved = nn.functional.normalize(student), list(old)
    nearest = (teacher @ landmarks.T).argmax(dim=1).tolist()
    for k in set(nearest):
        members = [student[i] for i in range(len(student)) if nearest[i] == k]
        moved[k] = momentum * old[k] + (1 - momentum) * sum(members) / len(members)
    return torch.stack(moved)


def slow_structure(own: Tensor, landmarks: Tensor) -> Tensor:
    """RKD (arXiv:1904.05068) with its weights 0.5 and 1, in loops."""
    size = len(own)

    def smooth_l1(difference: Tensor) -> Tensor:
        return difference**2 / 2 if difference.abs() < 1 else difference.abs() - 0.5

    def distances(points: Tensor) -> dict[tuple[int, int], Tensor]:
        found = {(i, j): (points[i] - points[j]).norm() for i, j in itertools.permutations(range(size), 2)}
        mean = sum(found.values()) / len(found)
        return {pair: distance / mean for pair, distance in found.items()}

    def angles(points: Tensor) -> dict[tuple[int, int, int], Tensor]:
        arms = {(i, j): nn.functional.normalize(points[j] - points[i], dim=0) for i, j in distances(points)}
        return {(i, j, k): arms[i, j] @ arms[i, k] for i, j in arms for k in range(size) if k != i}

    given, wanted = distances(own), distances(landmarks)
    distance = torch.stack([smooth_l1(given[pair] - wanted[pair]) for pair in given]).sum() / size**2
    turned, level = angles(own), angles(landmarks)
    return 0.5 * distance + torch.stack([smooth_l1(turned[at] - level[at]) for at in turned]).sum() / size**3


def assert_same(loss: Tensor, expected: Tensor, student: Tensor) -> None:
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-9)
    (given,), (wanted,) = torch.autograd.grad(loss, student), torch.autograd.grad(expected, student)
    torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize(("tau_t", "tau_s"), [(0.05, 0.07), (0.4, 0.2)])
def test_proto_rkd__has_value_and_gradient_of_the_formula(own: bool, hard: bool, tau_t: float, tau_s: float) -> None:
    student, teacher = rows(1).requires_grad_(), rows(2)
    objective = build(
        teacher_temperature=tau_t,
        student_temperature=tau_s,
        targets="hard" if hard else "soft",
        own_caption=own,
    )
    expected = slow_rows(student, teacher, prototypes(K).double(), tau_t=tau_t, tau_s=tau_s, hard=hard, own=own)
    assert_same(objective(student=student, teacher=teacher), expected, student)


def test_proto_rkd__is_the_soft_direct_form_unless_told() -> None:
    student, teacher = rows(1).requires_grad_(), rows(2)
    objective = build()
    assert_same(
        objective(student=student, teacher=teacher), slow_rows(student, teacher, prototypes(K).double()), student
    )
    assert objective.state_dict().keys() == {"step"}
    assert not list(objective.parameters())


def test_proto_rkd__adds_the_column_direction() -> None:
    student, teacher, landmarks = rows(1).requires_grad_(), rows(2), prototypes(K).double()
    loss = build(symmetric=0.3)(student=student, teacher=teacher)
    expected = slow_rows(student, teacher, landmarks) + 0.3 * slow_columns(student, teacher, landmarks)
    assert_same(loss, expected, student)


def test_column_loss__counts_a_landmark_by_what_captions_are_assigned_to_it() -> None:
    student, teacher = rows(1), rows(2)
    unrelated = torch.full((BATCH, 1), -60.0, dtype=torch.float64)
    widened = column_loss(
        student=torch.cat([student, rows(3)[:, :1]], dim=1), teacher=torch.cat([teacher, unrelated], dim=1)
    )
    torch.testing.assert_close(widened, column_loss(student=student, teacher=teacher))


def test_proto_rkd__averages_with_a_coarse_map_that_stays_without_captions() -> None:
    student, teacher = rows(1).requires_grad_(), rows(2)
    loss = build(coarse_prototypes=COARSE, own_caption=True)(student=student, teacher=teacher)
    fine = slow_rows(student, teacher, prototypes(K).double(), own=True)
    coarse = slow_rows(student, teacher, prototypes(COARSE).double())
    assert_same(loss, (fine + coarse) / 2, student)


def test_proto_rkd__draws_other_captions_of_the_corpus_at_every_step() -> None:
    objective = build(corpus_landmarks=8, symmetric=0.3)
    seen = []
    for step in range(2):
        student, teacher = rows(1).requires_grad_(), rows(2)
        seen.append(draw_rows(CAPTIONS, 8, seed=step))
        drawn = nn.functional.normalize(CORPUS.gather(seen[-1])).double()
        landmarks = torch.cat([prototypes(K).double(), drawn])
        expected = slow_rows(student, teacher, landmarks) + 0.3 * slow_columns(student, teacher, landmarks)
        assert_same(objective(student=student, teacher=teacher), expected, student)
    assert not torch.equal(*seen)


def test_proto_rkd__leaves_out_the_own_caption_where_it_is_drawn_too() -> None:
    drawn = draw_rows(CAPTIONS, 8, seed=0)
    caption_rows = torch.cat([drawn[2:5], torch.tensor([-1, -1])])
    landmarks = torch.cat([prototypes(K), nn.functional.normalize(CORPUS.gather(drawn))]).double()
    teacher = rows(2)
    teacher[:3] = CORPUS.gather(caption_rows[:3]).double()
    student, left_out = rows(1).requires_grad_(), {(i, K + 2 + i) for i in range(3)}
    loss = build(corpus_landmarks=8, own_caption=True)(student=student, teacher=teacher, rows=caption_rows)
    assert_same(loss, slow_rows(student, teacher, landmarks, own=True, left_out=left_out), student)

    kept = build(corpus_landmarks=8)(student=student, teacher=teacher, rows=caption_rows)
    assert_same(kept, slow_rows(student, teacher, landmarks), student)


def test_proto_rkd__translates_back_with_running_means_that_carry_the_gradient() -> None:
    objective, landmarks = build(back_translation=True, momentum=0.6), prototypes(K).double()
    means = landmarks
    for step in range(4):
        student, teacher = rows(10 + step).requires_grad_(), rows(20 + step)
        loss = objective(student=student, teacher=teacher)
        means = slow_means(means.detach(), student, teacher, landmarks, momentum=0.6)
        assert_same(loss, slow_rows(student, teacher, landmarks, nn.functional.normalize(means)), student)
        torch.testing.assert_close(objective.map.means.double(), means.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("back_translation", [False, True])
def test_proto_rkd__adds_the_structure_of_the_students_own_map(back_translation: bool) -> None:
    student, teacher, landmarks = rows(1).requires_grad_(), rows(2), prototypes(K).double()
    loss = build(structure_weight=0.7, back_translation=back_translation)(student=student, teacher=teacher)
    own = nn.functional.normalize(slow_means(landmarks, student, teacher, landmarks))
    related = own if back_translation else landmarks
    expected = slow_rows(student, teacher, landmarks, related) + 0.7 * slow_structure(own, landmarks)
    assert_same(loss, expected, student)


def test_proto_rkd__compares_no_more_prototypes_than_asked_for() -> None:
    student, teacher, landmarks = rows(1).requires_grad_(), rows(2), prototypes(K).double()
    nearest = (teacher @ landmarks.T).argmax(dim=1)
    chosen = choose_prototypes(nearest, K, size=4, seed=0)
    own = nn.functional.normalize(slow_means(landmarks, student, teacher, landmarks))[chosen]
    loss = build(structure_weight=1.0, structure_prototypes=4)(student=student, teacher=teacher)
    expected = slow_rows(student, teacher, landmarks) + slow_structure(own, landmarks[chosen])
    assert_same(loss, expected, student)


def test_choose_prototypes__takes_those_of_the_batch_first_and_the_others_at_random() -> None:
    nearest = torch.tensor([7, 3, 7, 11])
    draws = [choose_prototypes(nearest, 50, size=10, seed=seed) for seed in range(200)]
    assert all(set(draw[:3].tolist()) == {3, 7, 11} and len(set(draw.tolist())) == 10 for draw in draws)
    assert set(torch.cat(draws).tolist()) == set(range(50))
    assert set(choose_prototypes(nearest, 50, size=2, seed=0).tolist()) < {3, 7, 11}
    assert sorted(choose_prototypes(nearest, 12, size=99, seed=0).tolist()) == list(range(12))


def test_proto_rkd__is_0_with_no_gradient_where_both_sides_agree() -> None:
    options = {**EVERYTHING, "back_translation": False, "learn_temperature": False, "momentum": 1.0}
    objective = build(**options, teacher_temperature=0.07)
    student = rows(2).requires_grad_()
    loss = objective(student=student, teacher=5 * rows(2))
    assert loss.detach().abs() < 1e-9
    assert torch.autograd.grad(loss, student)[0].abs().max() < 1e-6


def test_proto_rkd__is_0_where_the_members_lie_on_their_prototypes() -> None:
    objective = build(back_translation=True, structure_weight=1.0, student_temperature=0.05)
    student = prototypes(K).double().requires_grad_()
    loss = objective(student=student, teacher=prototypes(K).double())
    assert loss.detach().abs() < 1e-9
    assert torch.autograd.grad(loss, student)[0].abs().max() < 1e-6


def test_proto_rkd__sees_no_turn_of_a_student_that_translates_back() -> None:
    turn = torch.linalg.qr(rows(5, DIM)).Q
    plain, turned = (build(back_translation=True, structure_weight=1.0, momentum=0.0) for _ in range(2))
    teacher = prototypes(K).double()  # every prototype has a member, so the means forget where they started
    torch.testing.assert_close(
        plain(student=rows(1, K), teacher=teacher), turned(student=rows(1, K) @ turn, teacher=teacher)
    )


def test_proto_rkd__takes_the_batch_for_prototypes_where_none_are_given() -> None:
    student, teacher = rows(1).requires_grad_(), rows(2)
    options: dict[str, Any] = {"back_translation": True, "structure_weight": 0.7, "symmetric": 0.3}
    loss = build_objective("proto-rkd", dim=DIM, **options)(student=student, teacher=teacher)
    landmarks = nn.functional.normalize(teacher)
    own = nn.functional.normalize(0.9 * landmarks + 0.1 * nn.functional.normalize(student))
    columns = slow_columns_between(student, teacher, own, landmarks)
    expected = slow_rows(student, teacher, landmarks, own) + 0.3 * columns + 0.7 * slow_structure(own, landmarks)
    assert_same(loss, expected, student)


def slow_columns_between(student: Tensor, teacher: Tensor, own: Tensor, landmarks: Tensor) -> Tensor:
    """Compute what slow_columns does, in matrices, with the student's own landmarks."""
    wanted = nn.functional.normalize(teacher) @ landmarks.T / 0.05
    given = nn.functional.normalize(student) @ own.T / 0.07
    p, q = wanted.softmax(dim=0), given.softmax(dim=0)
    return (wanted.softmax(dim=1).mean(dim=0) * (p * (p.log() - q.log())).sum(dim=0)).sum()


def test_proto_rkd__restored_goes_on_exactly() -> None:
    used, restored = build(**EVERYTHING), build(**EVERYTHING)
    for step in range(2):
        used(student=rows(step), teacher=rows(step + 9))
    restored.load_state_dict(used.state_dict())
    for step in range(2, 5):
        batch = {"student": rows(step), "teacher": rows(step + 9), "rows": torch.arange(BATCH)}
        assert torch.equal(used(**batch), restored(**batch))
    for name, value in used.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value)


def test_proto_rkd__changes_nothing_in_evaluation() -> None:
    objective = build(**EVERYTHING)
    objective(student=rows(1), teacher=rows(2))
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    first, second = (objective.eval()(student=rows(3), teacher=rows(4)) for _ in range(2))
    assert torch.equal(first, second)
    assert before.keys() > {"step", "map.means", "coarse_map.means", "corpus_draw.step"}
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())


def test_proto_rkd__learns_the_students_temperature_when_asked_to() -> None:
    objective = build(learn_temperature=True)
    objective(student=rows(1), teacher=rows(2)).backward()
    [(name, log_scale)] = objective.named_parameters()
    assert name == "student_scale.log_scale"
    torch.testing.assert_close(log_scale.detach(), torch.tensor(math.log(1 / 0.07)))
    width = 1e-6
    sides = [
        slow_rows(rows(1), rows(2), prototypes(K).double(), tau_s=0.07 * math.exp(move)) for move in (-width, width)
    ]
    assert log_scale.grad is not None
    torch.testing.assert_close(log_scale.grad.double(), (sides[0] - sides[1]) / (2 * width), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"targets": "hard"}])
def test_proto_rkd__stays_finite_with_everything_on(options: dict[str, object]) -> None:
    objective = build(**EVERYTHING, **options)
    teacher = rows(2).float()
    teacher[0], teacher[2] = 0, teacher[1]
    for student in (rows(1).float(), rows(1)[[0, 0, 0, 1, 1]].float(), teacher.roll(1, 0) + 1e-3):
        for size in (BATCH, 2, 1):
            batch = student[:size].clone().requires_grad_()
            loss = objective(student=batch, teacher=teacher[:size], rows=torch.arange(size))
            loss.backward()
            assert loss.dtype == torch.float32
            assert loss.isfinite()
            assert batch.grad is not None
            assert batch.grad.isfinite().all()


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("teacher_temperature", -1.0, "a finite number above 0"),
        ("student_temperature", 0.0, "a finite number above 0"),
        ("targets", "one-hot", "one of soft, hard"),
        ("num_prototypes", 1, "at least 2"),
        ("coarse_prototypes", 1, "0 or at least 2"),
        ("coarse_prototypes", -4, "a finite number, not negative"),
        ("corpus_landmarks", -1, "a finite number, not negative"),
        ("momentum", -0.1, "from 0 to 1"),
        ("structure_weight", float("nan"), "a finite number, not negative"),
        ("structure_prototypes", 2, "at least 3, for an angle"),
        ("symmetric", -1.0, "a finite number, not negative"),
    ],
)
def test_proto_rkd__refuses_options_out_of_range(option: str, value: object, rule: str) -> None:
    with pytest.raises(ProtoRKDError, match=f"{option} of proto-rkd must be {rule}; got "):
        build(**{option: value})


def test_proto_rkd__refuses_what_it_has_no_source_for() -> None:
    with pytest.raises(ProtoRKDError, match=r"corpus_landmarks of proto-rkd must be 0 where no corpus .* got 8"):
        build_objective("proto-rkd", dim=DIM, corpus_landmarks=8)
    with pytest.raises(ProtoRKDError, match="coarse_prototypes of proto-rkd must be 0 where no prototypes"):
        build_objective("proto-rkd", dim=DIM, coarse_prototypes=8)


def test_proto_rkd__refuses_the_same_map_twice() -> None:
    with pytest.raises(ProtoRKDError, match="must give a second map; got as many prototypes as in the first, 6"):
        build_objective("proto-rkd", dim=DIM, prototypes=lambda _: prototypes(6), coarse_prototypes=3)
