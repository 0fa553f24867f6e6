"""Say in a few words what an artifact is: the options that tell it apart, and the headline of its newest evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.results.columns import text_of
from pipeline.stage import AnyStage
from pipeline.store.store import Artifact


def overview_of(artifact: Artifact, evaluations: Sequence[Artifact], stages: Sequence[AnyStage]) -> dict[str, Any]:
    """Return what records say of an artifact, without opening its files; nothing where its stage has no overview.

    Args:
        artifact: Artifact to describe.
        evaluations: Artifacts that measure it, the newest last.
        stages: Declarations of all stages.

    Returns:
        ``options``, those that tell it apart, and ``headline`` with ``metric`` and ``value``, as far as there are any.
    """
    overviews = {stage.name: stage.overview for stage in stages if stage.overview}
    own = overviews.get(artifact.record.stage)
    if own is None:
        return {}
    params = artifact.record.params
    described: dict[str, Any] = {}
    if options := {name: params[name] for name in own.options if name in params}:
        described["options"] = options
    for each in (artifact, *reversed(evaluations)):
        metrics = each.record.metrics
        if metric := overviews[each.record.stage].headline(metrics):
            return {**described, "headline": {"metric": metric, "value": metrics[metric]}}
    return described


def overview_text(described: Mapping[str, Any]) -> str:
    """Write what `overview_of` returns for people, ``loss infonce=1, seed 0, test/mean_recall 24.38  ``, or ""."""
    parts = [f"{name} {text_of(value)}" for name, value in described.get("options", {}).items()]
    if headline := described.get("headline"):
        parts.append(f"{headline['metric']} {headline['value']:.2f}")
    return f"{', '.join(parts)}  " if parts else ""
