"""evaluate: measure what a student learned, and show it in figures and in images.

Takes:  an artifact of distill, the teacher that it was distilled from, and sets of images.
Does:   image-text retrieval, zero-shot classification, nearest neighbours, linear probes, and an analysis of the space.
Gives:  report.json and report.html, evaluation_metrics_all.csv and results.jsonl, outcomes/CHECKPOINT/outcomes.parquet.
"""

from data_schemas.artifact_record import PAGE_NAME
from pipeline.stage import Context, Distributed, Result, Stage, Work
from pipeline.store.draft import Draft
from stages.components.compute.torchrun import join_torchrun
from stages.evaluate.options import EvaluateInputs, EvaluateParams, EvaluateRuntime
from stages.evaluate.overview import OVERVIEW
from stages.evaluate.sources import EvaluateSources


def evaluate(
    params: EvaluateParams, sources: EvaluateSources, out: Draft, runtime: EvaluateRuntime, context: Context
) -> Result:
    """Measure every checkpoint on every set, and write report, page and tables."""
    from stages.evaluate.run import measure

    return measure(params, sources, out, runtime, context)


def identify(inputs: EvaluateInputs, params: EvaluateParams, context: Context) -> EvaluateSources:
    """Find student and teacher, refuse a teacher that is not the student's, and hash every set."""
    from stages.evaluate.inputs import find_inputs

    return find_inputs(inputs, params, context)


def work(params: EvaluateParams, sources: EvaluateSources, context: Context) -> Work:
    """Count checkpoints, sets and the images in them."""
    from stages.evaluate.inputs import count_images

    return Work(counts=count_images(sources))


def prepare(
    inputs: EvaluateInputs, params: EvaluateParams, runtime: EvaluateRuntime, context: Context
) -> EvaluateInputs:
    """Follow a distillation while it runs, with --watch: measure its checkpoints, and wait for its end."""
    if not runtime.watch:
        return inputs
    from stages.evaluate.jobs.watch import follow

    return follow(inputs, params, runtime, context)


def check(params: EvaluateParams, inputs: EvaluateInputs, runtime: EvaluateRuntime) -> None:
    """Refuse a device that is not there and a precision that it does not serve."""
    from stages.components.compute.device import find_devices
    from stages.components.compute.precision import check_precision

    [device] = find_devices(runtime.device, most=1)
    check_precision(params.precision, device)


STAGE = Stage(
    name="evaluate",
    version=3,
    summary="Measure a student: retrieval, zero-shot classification, nearest neighbours, linear probes.",
    params=EvaluateParams,
    inputs=EvaluateInputs,
    runtime=EvaluateRuntime,
    identify=identify,
    run=evaluate,
    check=check,
    keep=True,
    page=PAGE_NAME,
    distributed=Distributed(join_torchrun, fails_together=True),
    prepare=prepare,
    work=work,
    overview=OVERVIEW,
)
