"""Calibrations as artifacts: identified by the student's training data, made once from them, and kept."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from data_schemas.calibration import QUERY_BANK, Calibration, QueryBank, read_calibration
from data_schemas.errors import ProtoRKDError
from pipeline.fingerprint import fingerprint
from pipeline.options.declaration import option
from pipeline.runner import run_within
from pipeline.sources import Identified, hashed_inputs, take_identified
from pipeline.stage import Context, Input, Result, Stage
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact
from stages.components.student.checkpoints import StudentWeights

if TYPE_CHECKING:
    from stages.components.calibration.fit import Vectors

_BANK_CAPTIONS, _TEMPERATURE = 8192, 0.05
_MIXED_CAPTIONS, _MIXED_FEATURES, _MIXED_IMAGES = 4096, 4096, 2048


@dataclass(frozen=True)
class _Params:
    """What a calibration is, but for what it is computed from."""

    kind: str = option(help="query-bank or mixed.")
    num_captions: int = option(help="Captions in the sample, at most.")
    seed: int = option(0, help="Of the samples.")
    num_images: int = option(0, help="Images in the sample, at most.")
    temperature: float = option(0.0, help="Of the query bank.")


@dataclass(frozen=True)
class _Sources:
    """The captions that a student was distilled from; for mixed scores also the student and its images or features."""

    embeddings: Input[None]
    student: Input[StudentWeights] | None = None
    images: Input[None] | None = None
    features: Input[None] | None = None


@dataclass(frozen=True)
class CalibrationSource:
    """A calibration that is identified, and not made yet.

    Args:
        kind: ``query-bank`` or ``mixed``.
        params: What it is.
        sources: What it is computed from.
    """

    kind: str
    params: _Params
    sources: _Sources


@dataclass(frozen=True)
class CalibrationRuntime:
    """Where images are embedded, where the student was not trained on features."""

    device: str = "auto"
    workers: int = 0


def identify_calibration(student: StudentWeights, kind: str) -> Input[CalibrationSource]:
    """Identify a calibration by what it would be computed from, which need not be there any more.

    Args:
        student: Student whose scores are calibrated.
        kind: ``query-bank`` or ``mixed``.

    Raises:
        ProtoRKDError: the distillation is not finished, or the student is not as wide as its teacher.
    """
    config, artifact = student.config, student.artifact
    if artifact is None:
        raise ProtoRKDError("--calibrate must have a student that is finished; this one still runs. Wait for its end.")
    if config.embedding_dim != config.teacher.dim:
        raise ProtoRKDError(
            f"--calibrate must have a student as wide as its teacher; got {config.embedding_dim} and "
            f"{config.teacher.dim}. Distill without --projection-dim."
        )
    made_of = artifact.record.inputs
    found = {name: Input(made_of[name].digest, made_of[name].location, value=None) for name in made_of}
    if kind == QUERY_BANK:
        params, sources = _Params(kind, _BANK_CAPTIONS, temperature=_TEMPERATURE), _Sources(found["embeddings"])
    else:
        features = found.get("features")
        params = _Params(kind, _MIXED_CAPTIONS, num_images=_MIXED_IMAGES if features is None else _MIXED_FEATURES)
        weights = Input(student.identity, str(student.folder), value=student)
        images = found["images"] if features is None else None
        sources = _Sources(found["embeddings"], weights, images, features)
    digests = {name: each.digest for name, each in hashed_inputs(sources).items()}
    name = fingerprint(CALIBRATION.name, CALIBRATION.version, params, digests)
    return Input(name, kind, value=CalibrationSource(kind, params, sources))


def make_calibration(
    source: CalibrationSource, runtime: CalibrationRuntime, context: Context
) -> tuple[Calibration, str]:
    """Compute a calibration, or read it where it was computed before; return it, and the digest of its artifact.

    Args:
        source: Calibration, as `identify_calibration` identified it.
        runtime: Where images are embedded.
        context: Store with the training data.

    Raises:
        ProtoRKDError: what it is computed from is gone.
    """
    inputs, context = Identified(source.sources), replace(context, force=False)
    outcome = run_within(CALIBRATION, params=source.params, inputs=inputs, runtime=runtime, context=context)
    outcome.require_whole()
    return read_calibration(outcome.artifact.path), outcome.artifact.record.digest


def _run(params: _Params, sources: _Sources, out: Draft, runtime: CalibrationRuntime, context: Context) -> Result:
    from stages.components.calibration.fit import mixed_scores, sample_captions

    embeddings = _find("encode-teacher", sources.embeddings, params.kind, context)
    captions = sample_captions(embeddings, params.num_captions, seed=params.seed)
    if sources.student is None:
        QueryBank(captions, params.temperature).write(out.path)
        return Result(counts={"captions": len(captions)})
    images = _embed_images(params, sources.student.value, sources, runtime, context)
    mixed_scores(captions, images).write(out.path)
    return Result(counts={"captions": len(captions), "images": len(images)})


def _embed_images(
    params: _Params, student: StudentWeights, sources: _Sources, runtime: CalibrationRuntime, context: Context
) -> "Vectors":
    """Embed a sample of the training's images: from their features where the student was trained on those."""
    from stages.components.calibration.fit import embed_sampled_features, embed_sampled_images
    from stages.components.inputs.training_images import AbsentImages, find_training_images

    if sources.features is not None:
        features = _find("encode-images", sources.features, params.kind, context)
        return embed_sampled_features(student, features, params.num_images, seed=params.seed)
    assert student.artifact is not None
    images = find_training_images(student.artifact, context)
    if isinstance(images, AbsentImages):
        raise ProtoRKDError(
            f"--calibrate {params.kind} must have the images that {student.artifact.name} was distilled from; "
            f"{images.value}. Bring them back to where they were, or calibrate by {QUERY_BANK}, which needs none."
        )
    return embed_sampled_images(
        student,
        images.value,
        params.num_images,
        seed=params.seed,
        device=runtime.device,
        workers=runtime.workers,
        store=context.store,
    )


def _find(stage: str, wanted: Input[None], kind: str, context: Context) -> Artifact:
    """Find the artifact of the training data, with its files here.

    Raises:
        ProtoRKDError: the store does not have it.
    """
    from stages.components.inputs.training_images import find_made

    made = find_made(stage, wanted.digest, context)
    if made is None:
        raise ProtoRKDError(
            f"--calibrate {kind} must have what the student was distilled from; {context.store} has no artifact of "
            f"{stage} with the digest {wanted.digest[:12]} any more (it was {wanted.location}). Run {stage} again as "
            "for the distillation, or leave --calibrate out."
        )
    context.use(made.record.digest)
    return context.store.fetch(made)


CALIBRATION = Stage(
    name="calibration",
    version=1,
    summary="Make the scores of a student comparable, from its training data.",
    params=_Params,
    inputs=Identified,
    runtime=CalibrationRuntime,
    identify=take_identified,
    run=_run,
)
