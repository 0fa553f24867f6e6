"""Prototypes, the student's running means of their members, and its temperature."""

import math

import pytest
import torch
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from stages.distill.objectives.parts.prototype_map import (
    PrototypeMap,
    StudentScale,
    build_map,
    build_student_scale,
    move_means,
)


def random_rows(seed: int, rows: int, dim: int = 4) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)))


def test_move_means__moves_each_mean_with_members_and_no_other() -> None:
    old, embeddings = random_rows(1, 3), random_rows(2, 4)
    moved = move_means(old, embeddings, torch.tensor([2, 0, 2, 2]), momentum=0.75)
    torch.testing.assert_close(moved[0], 0.75 * old[0] + 0.25 * embeddings[1])
    assert torch.equal(moved[1], old[1])
    torch.testing.assert_close(moved[2], 0.75 * old[2] + 0.25 * embeddings[[0, 2, 3]].sum(dim=0) / 3)


@pytest.mark.parametrize(("momentum", "weight"), [(0.0, 1.0), (1.0, 0.0)])
def test_move_means__takes_the_batch_alone_or_nothing_of_it_at_the_ends(momentum: float, weight: float) -> None:
    old, embeddings = random_rows(1, 2), random_rows(2, 1)
    moved = move_means(old, embeddings, torch.tensor([1]), momentum=momentum)
    torch.testing.assert_close(moved[1], weight * embeddings[0] + (1 - weight) * old[1])


def test_prototype_map__keeps_means_exactly_as_a_loop_over_steps_does() -> None:
    centroids = random_rows(0, 5)
    prototype_map = PrototypeMap(centroids, momentum=0.9, with_means=True)
    expected = [row.double() for row in centroids]
    for step in range(1, 6):
        student = random_rows(step, 7).requires_grad_()
        nearest = torch.randint(5, (7,), generator=torch.Generator().manual_seed(step))
        translated = prototype_map.translate(student=student, nearest=nearest, prototypes=centroids)
        for k in range(5):
            members = [student[i].detach().double() for i in range(7) if nearest[i] == k]
            if members:
                expected[k] = 0.9 * expected[k] + 0.1 * sum(members) / len(members)
        assert prototype_map.means is not None
        torch.testing.assert_close(prototype_map.means.double(), torch.stack(expected), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(translated.norm(dim=1), torch.ones(5))
        (gradient,) = torch.autograd.grad(translated.sum(), student)  # what was kept in place is not needed any more
        assert gradient.abs().sum(dim=1).gt(0).all()


def test_prototype_map__keeps_nothing_in_evaluation() -> None:
    prototype_map = PrototypeMap(random_rows(0, 5), momentum=0.9, with_means=True).eval()
    prototype_map.translate(student=random_rows(1, 2), nearest=torch.tensor([0, 1]), prototypes=random_rows(0, 5))
    assert prototype_map.means is not None
    assert torch.equal(prototype_map.means, random_rows(0, 5))


def test_prototype_map__has_means_but_no_prototypes_in_its_state() -> None:
    assert PrototypeMap(random_rows(0, 5), momentum=0.9, with_means=True).state_dict().keys() == {"means"}
    assert not PrototypeMap(random_rows(0, 5), momentum=0.9, with_means=False).state_dict()
    assert not PrototypeMap(None, momentum=0.9, with_means=True).state_dict()


def test_build_map__asks_for_the_number_and_takes_what_comes_as_unit_rows() -> None:
    asked: list[int] = []

    def source(num_prototypes: int) -> Tensor:
        asked.append(num_prototypes)
        return 3 * random_rows(0, 6)

    built = build_map("proto", prototypes=source, num_prototypes=9, dim=4, momentum=0.9, with_means=False)
    assert asked == [9]
    torch.testing.assert_close(built.prototypes(torch.zeros(1, 4)), random_rows(0, 6))


def test_build_map__refuses_prototypes_of_another_width() -> None:
    with pytest.raises(
        ProtoRKDError, match=r"Prototypes for proto must have the teacher's width 8; got shape \(6, 4\)"
    ):
        build_map(
            "proto",
            prototypes=lambda _: random_rows(0, 6),
            num_prototypes=6,
            dim=8,
            momentum=0.9,
            with_means=False,
        )


def test_student_scale__is_the_inverse_of_the_temperature() -> None:
    assert StudentScale(temperature=0.25, learn=False)() == 4.0
    assert not StudentScale(temperature=0.25, learn=False).state_dict()
    torch.testing.assert_close(StudentScale(temperature=0.25, learn=True)(), torch.tensor(4.0))


def test_student_scale__is_learnt_up_to_100() -> None:
    scale = StudentScale(temperature=0.25, learn=True)
    assert scale.log_scale is not None
    torch.nn.init.constant_(scale.log_scale, math.log(150))
    torch.testing.assert_close(scale(), torch.tensor(100.0))
    scale().backward()  # at the bound it can still come back
    torch.testing.assert_close(scale.log_scale.grad, torch.tensor(100.0))


def test_student_scale__stays_as_it_is_in_evaluation() -> None:
    scale = StudentScale(temperature=0.25, learn=True).eval()
    assert scale.log_scale is not None
    torch.nn.init.constant_(scale.log_scale, math.log(150))
    torch.testing.assert_close(scale(), torch.tensor(150.0))
    torch.testing.assert_close(scale.log_scale.detach(), torch.tensor(math.log(150)))


def test_build_student_scale__refuses_to_learn_from_beyond_the_bound() -> None:
    with pytest.raises(ProtoRKDError, match=r"student_temperature of proto must be at least 0.01 .* got 0.001"):
        build_student_scale("proto", student_temperature=0.001, learn_temperature=True)
    assert build_student_scale("proto", student_temperature=0.001, learn_temperature=False)() == 1000
