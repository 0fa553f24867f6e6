"""prototypes: cluster the teacher's space by spherical k-means over every cached caption embedding.

Takes:  an artifact of encode-teacher.
Does:   finds the directions that captions gather around, and assigns each caption to the nearest.
Gives:  centroids.safetensors, assignment.parquet, report.json and report.html (sizes, and typical captions).
"""

from data_schemas.artifact_record import PAGE_NAME
from pipeline.stage import Context, Input, Result, Stage, Work
from pipeline.store.draft import Draft
from stages.prototypes.options import PrototypesInputs, PrototypesParams, PrototypesRuntime, PrototypesSources

_ASSIGNMENT_BYTES = 8  # for each caption: its prototype, and its cosine with it


def prototypes(
    params: PrototypesParams, sources: PrototypesSources, out: Draft, runtime: PrototypesRuntime, context: Context
) -> Result:
    """Cluster the captions' embeddings by direction, and report on the clusters."""
    from stages.prototypes.run import make_prototypes

    return make_prototypes(params, runtime, embeddings=sources.embeddings.value, draft=out)


def identify(inputs: PrototypesInputs, params: PrototypesParams, context: Context) -> PrototypesSources:
    """Find the cached embeddings."""
    artifact = context.store.resolve(inputs.embeddings, stage="encode-teacher", flag="--embeddings")
    location = str(artifact.path.resolve())
    return PrototypesSources(embeddings=Input(digest=artifact.record.digest, location=location, value=artifact))


def work(params: PrototypesParams, sources: PrototypesSources, context: Context) -> Work:
    """Count captions, and the bytes of centroids and assignment."""
    from data_schemas.embedding_array import EmbeddingArray

    embeddings = EmbeddingArray.open(sources.embeddings.value.path)
    return Work(
        counts={"captions": embeddings.rows, "prototypes": params.num_prototypes},
        paced_by="captions",
        like=("num_prototypes", "iterations", "restarts", "captions_per_prototype", "method"),
        size=4 * params.num_prototypes * embeddings.dim + _ASSIGNMENT_BYTES * embeddings.rows,
    )


def check(params: PrototypesParams, inputs: PrototypesInputs, runtime: PrototypesRuntime) -> None:
    """Refuse a device that is not there."""
    from stages.components.compute.device import find_devices

    find_devices(runtime.device, most=1)


STAGE = Stage(
    name="prototypes",
    version=2,
    summary="Map the teacher's space: spherical k-means over all cached caption embeddings.",
    params=PrototypesParams,
    inputs=PrototypesInputs,
    runtime=PrototypesRuntime,
    identify=identify,
    run=prototypes,
    check=check,
    page=PAGE_NAME,
    work=work,
)
