"""Python functions made from stages, for notebooks and scripts, by the same declarations as the command line."""

import contextlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from pipeline.claim import joins_others
from pipeline.commands import store_options
from pipeline.log import show_log
from pipeline.options.config_file import stage_values
from pipeline.options.declaration import line_of
from pipeline.options.values import build, options_of, read_values
from pipeline.runner import StageOutcome, context_of, run_stage
from pipeline.stage import AnyStage
from pipeline.store.store import Store

STORE_VARIABLE = "PROTORKD_STORE"
_COMMON = {
    "store": "Folder of all artifacts. Default: what PROTORKD_STORE says, or store.",
    "force": "Run again though the artifact is there.",
    "join": "Share the work with all processes that ask for the same. Default: if a launcher has started several.",
    "quiet": "Log nothing but warnings.",
    "config": "File of options, as of --config; those that are given here count for more.",
}


@dataclass(frozen=True)
class StageResult:
    """What a stage made, now or before; it stands for its artifact wherever a path or a reference is wanted.

    Args:
        stage: Name of the stage.
        path: Path of the artifact's folder.
        fingerprint: Hash of what was asked for.
        digest: Hash of what was made.
        status: "created" or "unchanged".
        seconds: How long the call took.
        counts: What was made, and what was dropped and why.
        metrics: Measures by name; empty unless the stage measures.
    """

    stage: str
    path: Path
    fingerprint: str
    digest: str
    status: str
    seconds: float
    counts: Mapping[str, Any]
    metrics: Mapping[str, float]

    @classmethod
    def of(cls, outcome: StageOutcome) -> "StageResult":
        """Build the result from the runner's outcome."""
        record = outcome.artifact.record
        return cls(
            stage=record.stage,
            path=outcome.artifact.path,
            fingerprint=record.fingerprint,
            digest=record.digest,
            status=outcome.status,
            seconds=outcome.seconds,
            counts=record.counts,
            metrics=record.metrics,
        )

    def __fspath__(self) -> str:
        """Return the artifact's folder."""
        return str(self.path)


def open_store(store: str | os.PathLike[str] | None) -> Store:
    """Open the given store, else the one that PROTORKD_STORE names, else ``store``."""
    return store_options.open_store(os.fspath(store or os.environ.get(STORE_VARIABLE) or "store"))


def stage_function(stage: AnyStage, *, stages: Sequence[AnyStage]) -> Callable[..., StageResult]:
    """Make the function that runs a stage: its options are keyword arguments, with the command line's names and rules.

    Args:
        stage: Declaration of the stage.
        stages: Stages that it may ask for an artifact of.
    """
    name = stage.name.replace("-", "_")

    def call(
        *,
        store: str | os.PathLike[str] | None = None,
        force: bool = False,
        join: bool | None = None,
        quiet: bool = False,
        config: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> StageResult:
        show_log(quiet=quiet)
        place = f"{name}()"
        values = {} if config is None else stage_values(Path(config), stage, stages=stages)
        of_file = values.pop("store", None)
        if join and not stage.joinable:
            raise ProtoRKDError(f"{place} must be called without join, for its work cannot be shared; got join=True.")
        made = build(stage, {**values, **read_values(stage, options, place=place)}, place=place)
        joins = joins_others(stage, join, force=force)
        context = context_of(open_store(store or of_file), force=force, join=joins, stages=stages)
        with _main_unseen():
            return StageResult.of(run_stage(stage, **made, context=context))

    call.__name__ = call.__qualname__ = name
    call.__doc__ = _document(stage)
    call.__signature__ = _signature(stage, call)  # type: ignore[attr-defined]
    return call


def _signature(stage: AnyStage, call: Callable[..., StageResult]) -> inspect.Signature:
    common = [each for each in inspect.signature(call).parameters.values() if each.name in _common(stage)]
    own = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if known.is_required else known.field.default,
            annotation=known.hint,
        )
        for name, known in options_of(stage).items()
    ]
    return inspect.Signature([*own, *common], return_annotation=StageResult)


def _common(stage: AnyStage) -> dict[str, str]:
    """Return what is said of the keyword arguments that a stage's function has beside its options."""
    return {name: text for name, text in _COMMON.items() if name != "join" or stage.joinable}


def _document(stage: AnyStage) -> str:
    helps = {name: line_of(known.field).help for name, known in options_of(stage).items()} | _common(stage)
    lines = [f"    {name}: {text}" for name, text in helps.items()]
    return "\n".join(
        [stage.summary, "", "Args:", *lines, "", "Raises:", "    ProtoRKDError: something that can be mended."]
    )


@contextlib.contextmanager
def _main_unseen() -> Iterator[None]:
    """Hide where the main script lies, because processes that read images would run it again."""
    main = sys.modules["__main__"]
    hidden = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    main.__spec__ = None
    if "__file__" in hidden:
        del main.__file__
    try:
        yield
    finally:
        for name, value in hidden.items():
            setattr(main, name, value)
