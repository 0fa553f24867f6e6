"""The weighted sum of several objectives, each term known on its own."""

import inspect
from collections.abc import Mapping

from torch import Tensor, nn

from data_schemas.errors import ProtoRKDError


class WeightedObjectives(nn.Module):
    """Train on a weighted sum of objectives and report every term.

    Args:
        objectives: Weight and objective by name; the weights are constants and not part of the state.

    Raises:
        ProtoRKDError: If there is no objective.

    Shapes:
        student: (batch, student_dim), float.
        teacher: (batch, teacher_dim), float; gets no gradient.
        rows: (batch,), int64: the corpus row of each caption; this and what follows reach the objectives that take it.
        labels: (batch,), int64, -1 where unknown.
        images: (batch,), int64: equal for equal images.
        features: (batch, feature_dim), float: what the student embedded, where that was cached features.
        returns: the total, (), float; and by name each term before its weight, (), float, detached.
    """

    def __init__(self, objectives: Mapping[str, tuple[float, nn.Module]]) -> None:
        super().__init__()
        if not objectives:
            raise ProtoRKDError("--loss must be given at least once; got none. Write for example --loss simreg=1.")
        self.weights = {name: weight for name, (weight, _) in objectives.items()}
        self.objectives = nn.ModuleDict({name: objective for name, (_, objective) in objectives.items()})
        self._takes = {name: _keywords(objective) for name, objective in self.objectives.items()}

    def takes(self, what: str) -> bool:
        """Tell whether an objective reads one of the arguments beside student and teacher, by its name."""
        return any(what in taken for taken in self._takes.values())

    def forward(
        self,
        *,
        student: Tensor,
        teacher: Tensor,
        rows: Tensor | None = None,
        labels: Tensor | None = None,
        images: Tensor | None = None,
        features: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted total and the detached terms by name."""
        beside = {"rows": rows, "labels": labels, "images": images, "features": features}
        terms: dict[str, Tensor] = {}
        for name, objective in self.objectives.items():
            taken = {key: value for key, value in beside.items() if key in self._takes[name]}
            terms[name] = objective(student=student, teacher=teacher, **taken)
        total = sum((self.weights[name] * term for name, term in terms.items()), start=student.new_zeros(()))
        return total, {name: term.detach() for name, term in terms.items()}


def _keywords(objective: nn.Module) -> set[str]:
    """List the arguments that an objective reads; ``unread`` names those that its options leave without use."""
    return set(inspect.signature(objective.forward).parameters) - getattr(objective, "unread", frozenset())
