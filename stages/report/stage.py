"""report: say before any training whether this text model fits these images and this backbone.

Takes:  an artifact of encode-teacher; one of encode-images, of prototypes and queries where they are named.
Does:   looks for duplicates and false negatives, measures both spaces, and how far the simplest head gets.
Gives:  report.json and report.html, with what to do next in words and images of the extremes.
"""

from data_schemas.artifact_record import PAGE_NAME
from data_schemas.errors import ProtoRKDError
from pipeline.stage import Context, Input, Result, Stage, Work
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact
from stages.report.options import NEWEST, ReportInputs, ReportParams, ReportRuntime, ReportSources


def report(
    params: ReportParams, sources: ReportSources, out: Draft, runtime: ReportRuntime, context: Context
) -> Result:
    """Measure captions and features, and write the report and its page."""
    from stages.report.run import make_report

    return make_report(params, sources, out, runtime, context)


def identify(inputs: ReportInputs, _params: ReportParams, context: Context) -> ReportSources:
    """Find the artifacts, read the queries, and look whether the images are there."""
    from stages.report.images import find_folder
    from stages.report.queries import find_teacher, read_queries

    embeddings = _find("encode-teacher", inputs.embeddings, "--embeddings", context)
    features = None
    if inputs.features is not None:
        named = None if inputs.features == NEWEST else inputs.features
        features = _find("encode-images", named, "--features", context)
    prototypes = None if inputs.prototypes is None else _find("prototypes", inputs.prototypes, "--prototypes", context)
    if prototypes is not None:
        _check_prototypes(prototypes.value, embeddings.value)
    queries = None if inputs.queries is None else read_queries(inputs.queries, context)
    teacher = images = None
    if queries is not None:
        teacher = find_teacher(inputs.teacher, embeddings.value, trust_code=inputs.trust_remote_code, context=context)
    if features is not None:
        images = find_folder(inputs.image_root, embeddings.value, allow_outside=inputs.allow_outside)
    return ReportSources(embeddings, features, prototypes, queries, teacher, images)


def work(params: ReportParams, sources: ReportSources, _context: Context) -> Work:
    """Count captions and images."""
    counts = {"captions": sources.embeddings.value.record.counts["captions"]}
    if sources.features is not None:
        counts["images"] = sources.features.value.record.counts["images"]
    return Work(counts=counts, paced_by="captions", like=("sample_size", "ridge_pairs", "graph_captions"))


def check(_params: ReportParams, _inputs: ReportInputs, runtime: ReportRuntime) -> None:
    """Refuse a device that is not there."""
    from stages.components.compute.device import find_devices

    find_devices(runtime.device, most=1)


def _find(stage: str, reference: str | None, flag: str, context: Context) -> Input[Artifact]:
    artifact = context.store.resolve(reference, stage=stage, flag=flag)
    return Input(digest=artifact.record.digest, location=str(artifact.path.resolve()), value=artifact)


def _check_prototypes(prototypes: Artifact, embeddings: Artifact) -> None:
    of = prototypes.record.inputs["embeddings"].digest
    if of != embeddings.record.digest:
        raise ProtoRKDError(
            f"--prototypes must be of the captions of --embeddings ({embeddings.record.digest[:12]}); got "
            f"{prototypes.path}, of {of[:12]}. Run prototypes on these embeddings."
        )


STAGE = Stage(
    name="report",
    version=1,
    summary="Say before training whether a text model fits images and a backbone: figures, images, what to do next.",
    params=ReportParams,
    inputs=ReportInputs,
    runtime=ReportRuntime,
    identify=identify,
    run=report,
    check=check,
    page=PAGE_NAME,
    work=work,
)
