"""encode-teacher: every distinct caption of a manifest through the frozen teacher, once.

Takes:  image-caption pairs in any usual form, and a sentence-transformers model (or a file of word vectors).
Does:   finds the distinct captions, takes over what earlier artifacts know, embeds the rest, shard by shard.
Gives:  embeddings.zarr (row k: the embedding of caption k), captions.parquet, pairs.parquet, rejected.parquet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.draft import Draft
from pipeline.log import log
from pipeline.objects import url_of
from pipeline.options import FRACTION, NOT_NEGATIVE, Check, option
from pipeline.stage import Context, Input, Result, Stage, Work
from stages.manifest_format import ManifestFormat, find_pairs
from stages.recipe import PRECISIONS, Recipe
from stages.teacher_identity import identify_teacher, trust_option

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class EncodeInputs:
    """Where the inputs lie; hashed by content."""

    manifest: Path = option(
        help="Image-caption pairs: TSV, CSV, JSON lines, COCO's captions, parquet, a webdataset tar; a folder or a "
        "pattern of such shards; a folder of img2dataset; or a dataset saved to disk. Image paths are relative to its "
        "folder.",
        metavar="PATH",
    )
    teacher: str = option(
        help="Model of sentence-transformers, by name or NAME@REVISION or folder, or a file of GloVe word vectors.",
        metavar="NAME_OR_PATH",
    )
    trust_remote_code: bool = trust_option()


@dataclass(frozen=True)
class EncodeParams(Recipe, ManifestFormat):
    """What changes the output."""

    teacher_precision: str = option(
        "auto",
        help="Numbers that the teacher computes with. bf16 is at least twice as quick where the processor has it, and "
        "how far its embeddings are from fp32's is measured and recorded; fp16 is for GPUs alone. auto: that of what "
        "the store holds of this teacher; of a new one bf16 on a GPU that has it, else fp32.",
        choices=("auto", *PRECISIONS),
    )
    label_column: str = option(
        "",
        help="Column of labels, kept in the pair index for the objectives that use them. A field may be empty. "
        "Default: none.",
        metavar="NAME",
    )
    limit: int = option(0, help="Take the first so many pairs. 0: all.", check=NOT_NEGATIVE)
    shard_rows: int = option(
        8192,
        help="Captions in one shard file: what an interrupted run loses at most.",
        check=Check("be a positive multiple of 256", lambda rows: rows > 0 and rows % 256 == 0),
    )


@dataclass(frozen=True)
class EncodeRuntime:
    """What changes only how fast or where it runs; not hashed."""

    device: str = option(
        "auto",
        help="Where the teacher runs: auto, cpu, cuda, ... Several (cuda:0,cuda:1) share the work, a process each.",
    )
    batch_tokens: int = option(
        0,
        help="Tokens in one batch of the teacher, padding included. 0: 1,024 on a CPU, at most 65,536 on a GPU.",
        check=NOT_NEGATIVE,
    )
    max_bad_fraction: float = option(
        0.01, help="Rejected rows beyond this share of the manifest stop the stage.", check=FRACTION
    )


def encode_teacher(
    params: EncodeParams, inputs: Mapping[str, Input], out: Draft, runtime: EncodeRuntime, context: Context
) -> Result:
    """Write one embedding per distinct caption, in order of first appearance, and which picture goes with which."""
    from data_schemas.pair_index import read_labels, write_pairs, write_rejected
    from stages.caption_embeddings import write_caption_embeddings
    from stages.encode_teacher.captions import index_captions

    manifest = params.read(
        inputs["manifest"].value,
        label_column=params.label_column,
        limit=params.limit,
        max_bad_fraction=runtime.max_bad_fraction,
        file_digests=context.file_digests,
    )
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
        teacher=inputs["teacher"],
        recipe=Recipe.of(params),
        shard_rows=params.shard_rows,
        choose_devices=partial(_choose_devices, runtime.device, precision=params.teacher_precision),
        batch_tokens=runtime.batch_tokens,
        context=context,
    )
    return Result(counts=counts | written.counts, metrics=written.metrics)


def _choose_devices(names: str, *, precision: str) -> "Sequence[torch.device]":
    from stages.device import choose_devices, describe_work

    devices = choose_devices(names)
    log.info("encode-teacher: on %s", describe_work(*devices, precision=precision))
    return devices


def identify(inputs: EncodeInputs, params: EncodeParams, context: Context) -> Mapping[str, Input]:
    """Hash what the pairs are read from, and the teacher."""
    pairs = params.identify(find_pairs(inputs.manifest), file_digests=context.file_digests)
    return {
        "manifest": replace(pairs, location=url_of(inputs.manifest) or pairs.location),
        "teacher": identify_teacher(
            inputs.teacher, file_digests=context.file_digests, trust_code=inputs.trust_remote_code
        ),
    }


def work(params: EncodeParams, inputs: Mapping[str, Input], context: Context) -> Work:
    """Count distinct captions and those that are not known yet, and the bytes of all embeddings."""
    from stages.encode_teacher.forecast import encoding_work

    return encoding_work(params, inputs, context)


def settle(params: EncodeParams, inputs: Mapping[str, Input], runtime: EncodeRuntime, context: Context) -> EncodeParams:
    """Turn ``--teacher-precision auto`` into the precision that is hashed and recorded."""
    from stages.encode_teacher.auto_precision import settle_precision

    return settle_precision(params, inputs, runtime, context)


STAGE = Stage(
    name="encode-teacher",
    version=1,
    summary="Embed every caption of a manifest once, with a frozen text teacher.",
    params=EncodeParams,
    inputs=EncodeInputs,
    runtime=EncodeRuntime,
    identify=identify,
    run=encode_teacher,
    settle=settle,
    work=work,
)
