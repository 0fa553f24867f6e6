"""prototypes: cluster the teacher's space by spherical k-means over every cached caption embedding.

Takes:  an artifact of encode-teacher.
Does:   finds the directions that captions gather around, and assigns each caption to the nearest.
Gives:  centroids.safetensors, assignment.parquet, report.json and report.html (sizes, and typical captions).
"""

from collections.abc import Mapping

from data_schemas.page import PAGE_NAME
from pipeline.stage import Context, Input, Result, Stage, Work
from pipeline.store.draft import Draft
from stages.prototypes.options import PrototypesInputs, PrototypesParams, PrototypesRuntime

_ASSIGNMENT_BYTES = 8  # for each caption: its prototype, and its cosine with it


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
    from data_schemas.embedding_array import EmbeddingArray

    embeddings = EmbeddingArray.open(inputs["embeddings"].value.path)
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
