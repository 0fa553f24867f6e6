"""encode-teacher: embed every distinct caption of a manifest once, by the frozen teacher.

Takes:  image-caption pairs in any usual form, and a sentence-transformers model (or a file of word vectors).
Does:   finds the distinct captions, reuses rows of earlier artifacts, embeds the rest, shard by shard.
Gives:  embeddings.zarr (row k: the embedding of caption k), captions.parquet, pairs.parquet, rejected.parquet.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from pipeline.remote.object_store import url_of
from pipeline.stage import Context, Result, Stage, Work
from pipeline.store.draft import Draft
from stages.components.inputs.manifest_options import find_pairs
from stages.components.teacher.encoding_options import EncodingOptions
from stages.components.teacher.identity import identify_teacher
from stages.components.teacher.prompts import named_prompt
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
    write_rejected(out.path, manifest.rejections)
    counts = {"pairs": pairs.num_rows, "rejected_rows": len(manifest.rejections)}
    if params.label_column:
        names, _ = read_labels(out.path)
        counts |= {"labels": len(names), "unlabelled_pairs": pairs["label"].null_count}
    del manifest, pairs  # the teacher may need the memory
    written = write_caption_embeddings(
        captions,
        out,
        teacher=sources.teacher,
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
    pairs = params.identify(find_pairs(inputs.manifest), file_digests=context.file_digests)
    return EncodeSources(
        manifest=replace(pairs, location=url_of(inputs.manifest) or pairs.location),
        teacher=identify_teacher(
            inputs.teacher, file_digests=context.file_digests, trust_code=inputs.trust_remote_code
        ),
    )


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
        params = _with_prompt(params, named_prompt(inputs.prompt_name, sources.teacher.value, flag="--prompt-name"))
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
    check=check,
    settle=settle,
    work=work,
)
