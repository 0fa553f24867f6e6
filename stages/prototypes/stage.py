"""prototypes: the teacher's whole space on a map, by spherical k-means over every cached caption embedding.

Takes:  an artifact of encode-teacher.
Does:   finds the directions that the captions gather around, and which caption is nearest to which.
Gives:  centroids.safetensors, assignment.parquet, report.json and report.html (sizes, and what gathers where).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from data_schemas.page import PAGE_NAME
from pipeline.draft import Draft
from pipeline.options import NOT_NEGATIVE, POSITIVE, Check, option
from pipeline.stage import Context, Input, Result, Stage, Work

_ASSIGNMENT_BYTES = 8  # a caption: its prototype, and how near it is


@dataclass(frozen=True)
class PrototypesInputs:
    """Where the inputs lie; hashed by content."""

    embeddings: str | None = option(
        None,
        help="Artifact of encode-teacher, by fingerprint or path. Default: the newest.",
        metavar="REF",
        artifact="encode-teacher",
    )


@dataclass(frozen=True)
class PrototypesParams:
    """What changes the output."""

    num_prototypes: int = option(1024, help="How many; at most one a caption.", check=POSITIVE)
    iterations: int = option(20, help="Rounds of k-means; it stops before where nothing moves.", check=POSITIVE)
    restarts: int = option(1, help="Fits from different starts, of which the best is kept.", check=POSITIVE)
    captions_per_prototype: int = option(
        0,
        help="Fit on this many captions a prototype, drawn at random, and assign all: less memory and time, rougher "
        "centroids. 0: fit on all.",
        check=NOT_NEGATIVE,
    )
    seed: int = option(
        0,
        help="Of the starts, and of the captions that are drawn.",
        check=Check("lie between 0 and 2147483647", lambda seed: 0 <= seed < 1 << 31),
    )
    method: str = option(
        "auto",
        help="Who computes: faiss by Lloyd's iterations, or torch, which looks ahead; auto: torch.",
        choices=("auto", "faiss", "torch"),
    )


@dataclass(frozen=True)
class PrototypesRuntime:
    """What changes only how fast or where it runs; not hashed."""

    device: str = option("auto", help="Where k-means runs: auto, cpu, cuda, ...")


def prototypes(
    params: PrototypesParams, inputs: Mapping[str, Input], out: Draft, runtime: PrototypesRuntime, context: Context
) -> Result:
    """Cluster the captions' embeddings by direction, and report on the clusters."""
    from stages.prototypes.run import make_prototypes

    return make_prototypes(params, runtime, embeddings=inputs["embeddings"].value, draft=out)


def identify(inputs: PrototypesInputs, params: PrototypesParams, context: Context) -> Mapping[str, Input]:
    """Find the cached embeddings."""
    artifact = context.store.resolve(inputs.embeddings, stage="encode-teacher", flag="--embeddings")
    location = str(artifact.path.resolve())
    return {"embeddings": Input(digest=artifact.record.digest, location=location, value=artifact)}


def work(params: PrototypesParams, inputs: Mapping[str, Input], context: Context) -> Work:
    """Count captions, and the bytes of centroids and assignment."""
    from data_schemas.teacher_embeddings import TeacherEmbeddings

    embeddings = TeacherEmbeddings.open(inputs["embeddings"].value.path)
    return Work(
        counts={"captions": embeddings.rows, "prototypes": params.num_prototypes},
        paced_by="captions",
        like=("num_prototypes", "iterations", "restarts", "captions_per_prototype", "method"),
        size=4 * params.num_prototypes * embeddings.dim + _ASSIGNMENT_BYTES * embeddings.rows,
    )


STAGE = Stage(
    name="prototypes",
    version=2,
    summary="Map the teacher's space: spherical k-means over all cached caption embeddings.",
    params=PrototypesParams,
    inputs=PrototypesInputs,
    runtime=PrototypesRuntime,
    identify=identify,
    run=prototypes,
    page=PAGE_NAME,
    work=work,
)
