"""encode-teacher: embed every distinct caption of a manifest once, by the frozen teacher.

Takes:  image-caption pairs in any usual form, and a sentence-transformers model (or a file of word vectors).
Does:   finds the distinct captions, reuses rows of earlier artifacts, embeds the rest, shard by shard.
Gives:  embeddings.zarr (row k: the embedding of caption k), captions.parquet, pairs.parquet, rejected.parquet.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, cast

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from pipeline.options.declaration import flag_of
from pipeline.remote.object_store import url_of
from pipeline.stage import Context, Input, Result, Stage, Work
from pipeline.store.draft import Draft
from stages.components.inputs.manifest_options import find_pairs
from stages.components.inputs.vectors import VectorSource
from stages.components.teacher.encoding_options import EncodingOptions
from stages.components.teacher.identity import TeacherSource, identify_teacher
from stages.components.teacher.prompts import named_prompt
from stages.components.teacher.recorded import identify_by_vectors
from stages.encode_teacher.options import EncodeInputs, EncodeParams, EncodeRuntime, EncodeSources

if TYPE_CHECKING:
    import torch


def encode_teacher(
    params: EncodeParams, sources: EncodeSources, out: Draft, runtime: EncodeRuntime, context: Context
) -> Result:
    """Write one embedding for each distinct caption, in order of first appearance, and the pair index."""
    from data_schemas.pair_index import read_labels, write_pairs, write_rejected
    from stages.components.embeddings.caption_embeddings import write_caption_embeddings
    from stages.encode_teacher.caption_index import index_captions

    manifest = params.read(
        sources.manifest.value,
        label_column=params.label_column,
        limit=params.limit,
        max_bad_fraction=runtime.max_bad_fraction,
        file_digests=context.file_digests,
    )
    context.check_inputs()
    captions, pairs = index_captions(manifest.table)
    write_pairs(out.path, pairs)
    counts = {"pairs": pairs.num_rows, "rejected_rows": len(manifest.rejections)}
    if params.label_column:
        names, _ = read_labels(out.path)
        counts |= {"labels": len(names), "unlabelled_pairs": pairs["label"].null_count}
    if isinstance(sources.teacher.value, VectorSource):
        from stages.encode_teacher.vectors import take_vectors

        source = sources.teacher.value
        return Result(counts | take_vectors(params, runtime, manifest, captions, pairs, source=source, draft=out))
    write_rejected(out.path, manifest.rejections)
    del manifest, pairs  # the teacher may need the memory
    written = write_caption_embeddings(
        captions,
        out,
        teacher=cast("Input[TeacherSource]", sources.teacher),
        recipe=EncodingOptions.of(params),
        shard_rows=params.shard_rows,
        choose_devices=partial(_choose_devices, runtime.device, precision=params.teacher_precision),
        batch_tokens=runtime.batch_tokens,
        context=context,
    )
    return Result(counts=counts | written.counts, metrics=written.metrics)


def _choose_devices(names: str, *, precision: str) -> "Sequence[torch.device]":
    from stages.components.compute.device import choose_devices, describe_work

    devices = choose_devices(names)
    log.info("encode-teacher: on %s", describe_work(*devices, precision=precision))
    return devices


def identify(inputs: EncodeInputs, params: EncodeParams, context: Context) -> EncodeSources:
    """Hash what the pairs are read from, and the teacher."""
    if (inputs.teacher is None) == (inputs.vectors is None):
        got = "neither" if inputs.teacher is None else "both"
        raise ProtoRKDError(
            f"One of --teacher and --vectors must be given; got {got}. Pass the model that embeds captions, or vectors "
            "that another tool computed."
        )
    pairs = params.identify(find_pairs(inputs.manifest), file_digests=context.file_digests)
    return EncodeSources(
        manifest=replace(pairs, location=url_of(inputs.manifest) or pairs.location),
        teacher=_identify_teacher(inputs, params, context),
    )


def _identify_teacher(
    inputs: EncodeInputs, params: EncodeParams, context: Context
) -> Input[TeacherSource] | Input[VectorSource]:
    """Hash the teacher, or the vectors that it is known by."""
    if inputs.teacher is not None:
        return identify_teacher(inputs.teacher, file_digests=context.file_digests, trust_code=inputs.trust_remote_code)
    assert inputs.vectors is not None
    if inputs.prompt_name is not None:
        raise ProtoRKDError(
            f"--vectors must go without --prompt-name, for nothing is embedded; got {inputs.prompt_name}. Leave it out."
        )
    for field in fields(EncodingOptions):
        if field.name != "embedding_dtype" and getattr(params, field.name) not in (field.default, "auto"):
            raise ProtoRKDError(
                f"--vectors must go without {flag_of(field)}, for nothing is embedded; got "
                f"{getattr(params, field.name)}. Leave it out."
            )
    return identify_by_vectors(inputs.vectors, params, name=inputs.teacher_name, file_digests=context.file_digests)


def work(params: EncodeParams, sources: EncodeSources, context: Context) -> Work:
    """Count distinct captions and those that are not known yet, and the bytes of all embeddings."""
    from stages.encode_teacher.work_estimate import encoding_work

    return encoding_work(params, sources, context)


def settle(
    params: EncodeParams, inputs: EncodeInputs, sources: EncodeSources, runtime: EncodeRuntime, context: Context
) -> EncodeParams:
    """Turn ``--prompt-name`` and ``--teacher-precision auto`` into what is hashed and recorded."""
    from stages.encode_teacher.auto_precision import settle_precision

    if inputs.prompt_name is not None:
        teacher = cast("TeacherSource", sources.teacher.value)
        params = _with_prompt(params, named_prompt(inputs.prompt_name, teacher, flag="--prompt-name"))
    return settle_precision(params, sources, runtime, context)


def _with_prompt(params: EncodeParams, prompt: str) -> EncodeParams:
    if params.prompt not in ("", prompt):
        raise ProtoRKDError(
            f"--prompt must be left out beside --prompt-name, which stands for {prompt!r}; got {params.prompt!r}."
        )
    return replace(params, prompt=prompt)


def check(params: EncodeParams, inputs: EncodeInputs, runtime: EncodeRuntime) -> None:
    """Refuse a device that is not there."""
    from stages.components.compute.device import find_devices

    find_devices(runtime.device)


STAGE = Stage(
    name="encode-teacher",
    version=1,
    summary="Embed every caption of a manifest once, with a frozen text teacher.",
    params=EncodeParams,
    inputs=EncodeInputs,
    runtime=EncodeRuntime,
    identify=identify,
    run=encode_teacher,
    joinable=True,
    check=check,
    settle=settle,
    work=work,
)
