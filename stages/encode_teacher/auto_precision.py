"""Resolve ``--teacher-precision auto`` before anything is hashed: by the store's artifacts, else by the device."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from data_schemas.artifact_record import ArtifactRecord
from pipeline.fingerprint import canonical
from pipeline.log import log
from pipeline.sources import hashed_inputs
from pipeline.stage import Context
from pipeline.store.store import Artifact, Store
from stages.components.inputs.vectors import VectorSource
from stages.components.teacher.encoding_options import EncodingOptions
from stages.components.teacher.identity import TeacherSource

if TYPE_CHECKING:
    from stages.encode_teacher.options import EncodeParams, EncodeRuntime, EncodeSources

_STAGE = "encode-teacher"


def settle_precision(
    params: "EncodeParams", sources: "EncodeSources", runtime: "EncodeRuntime", context: Context
) -> "EncodeParams":
    """Turn "auto" into fp32 or bf16, and log why.

    The store's artifacts of this teacher decide, so that their rows are reused on any machine: the artifact of the same
    request, else the newest. In a new store it is bf16 on GPUs that have it, else fp32. Torch is imported only to look
    at a GPU.
    """
    if params.teacher_precision != "auto":
        return params
    if isinstance(sources.teacher.value, VectorSource):
        return replace(params, teacher_precision="fp32")  # they are taken as they are
    earlier = _earlier(params, sources, context)
    if earlier is not None:
        precision, reason = EncodingOptions.of(earlier.record.params).teacher_precision, f"as in {earlier.name}"
    else:
        precision, reason = _by_device(runtime.device, sources.teacher.value)
    log.info("teacher precision: %s, %s", precision, reason)
    return replace(params, teacher_precision=precision)


def _earlier(params: "EncodeParams", sources: "EncodeSources", context: Context) -> Artifact | None:
    """Find the artifact of the same request, up to the precision, else the newest of the same teacher."""
    asked = _but_precision(canonical(params)), {name: entry.digest for name, entry in hashed_inputs(sources).items()}

    def is_same(record: ArtifactRecord) -> bool:
        return asked == (_but_precision(record.params), {name: entry.digest for name, entry in record.inputs.items()})

    def is_of_teacher(record: ArtifactRecord) -> bool:
        return record.inputs["teacher"].digest == sources.teacher.digest

    here = Store(context.store.root).artifacts(_STAGE)
    if found := _newest(here, is_same):
        return found  # an object store, if there is one, need not be asked
    known = context.store.artifacts(_STAGE)
    return _newest(known, is_same) or _newest(known, is_of_teacher)


def _newest(artifacts: Sequence[Artifact], fits: Callable[[ArtifactRecord], bool]) -> Artifact | None:
    return next((artifact for artifact in reversed(artifacts) if fits(artifact.record)), None)


def _but_precision(params: Mapping[str, object]) -> Mapping[str, object]:
    return {name: value for name, value in params.items() if name != "teacher_precision"}


def _by_device(names: str, teacher: TeacherSource) -> tuple[str, str]:
    if teacher.kind == "word-vectors":
        return "fp32", "for word vectors are looked up and not multiplied"
    if all(name.strip() == "cpu" for name in names.split(",")):
        return "fp32", "as the device is a CPU"
    from stages.components.compute.device import choose_devices
    from stages.components.compute.precision import choose_precision

    devices = choose_devices(names)
    named = ", ".join(dict.fromkeys(map(str, devices)))
    if all(each.type == "cuda" and choose_precision("auto", each) == "bf16" for each in devices):
        return "bf16", f"which {named} multiplies in hardware"
    return "fp32", f"as the device is {named}"
