"""export: write one folder that embeds captions and images into one space, for people without this project.

Takes:  an artifact of distill, the teacher that it was distilled from, and an evaluation of it where there is one.
Does:   combines teacher and student, checks that they embed as before, and writes a model card.
Gives:  what `SentenceTransformer(folder)` loads, onnx/ or torch/, as --format says; README.md, export.json.
"""

from pipeline.stage import Context, Result, Stage
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact
from stages.export.options import ExportInputs, ExportParams, ExportRuntime, ExportSources


def export(
    params: ExportParams, sources: ExportSources, out: Draft, runtime: ExportRuntime, context: Context
) -> Result:
    """Write the wanted formats, check them, and describe them."""
    from stages.export.run import write_export

    result = write_export(params, sources, out, context)
    context.check_inputs()
    return result


def identify(inputs: ExportInputs, params: ExportParams, context: Context) -> ExportSources:
    """Find student, teacher and evaluation, and gather what their records say of where the model comes from."""
    from stages.export.inputs import find_inputs

    return find_inputs(inputs, params, context)


def deliver(artifact: Artifact, runtime: ExportRuntime) -> None:
    """Copy and upload an export, even one from an earlier run."""
    from stages.export.delivery import copy_to, push

    if runtime.output is not None:
        copy_to(runtime.output, artifact)
    if runtime.push_to_hub is not None:
        push(artifact, runtime.push_to_hub, private=runtime.private, revision=runtime.hub_revision)


STAGE = Stage(
    name="export",
    version=2,
    summary="Write one folder that embeds captions and images: for sentence-transformers, ONNX or torch.",
    params=ExportParams,
    inputs=ExportInputs,
    runtime=ExportRuntime,
    identify=identify,
    run=export,
    keep=True,
    deliver=deliver,
)
