"""Estimate the work of encoding: captions without a known embedding, and the bytes of all embeddings."""

import json
from typing import TYPE_CHECKING

from data_schemas.embedding_array import stored_bytes
from pipeline.stage import Context, Work
from stages.components.embeddings.reused_captions import count_unknown
from stages.components.inputs.vectors import VectorSource
from stages.components.teacher.encoding_options import EncodingOptions
from stages.components.teacher.glove_file import measure_vectors
from stages.components.teacher.identity import TeacherSource
from stages.encode_teacher.caption_index import index_captions

if TYPE_CHECKING:
    from stages.encode_teacher.options import EncodeParams, EncodeSources

_WIDTHS = ("out_features", "embedding_dimension", "word_embedding_dimension", "hidden_size")


def encoding_work(params: "EncodeParams", sources: "EncodeSources", context: Context) -> Work:
    """Read the manifest as the stage does, and count its captions and bytes."""
    manifest = params.read(
        sources.manifest.value,
        label_column=params.label_column,
        limit=params.limit,
        max_bad_fraction=1.0,
        file_digests=context.file_digests,
    )
    captions, pairs = index_captions(manifest.table)
    if isinstance(sources.teacher.value, VectorSource):
        return Work(counts={"pairs": pairs.num_rows, "captions": len(captions)})
    unknown = len(captions)
    if not context.force:
        digest = sources.teacher.digest
        unknown = count_unknown(captions, store=context.store, teacher_digest=digest, recipe=EncodingOptions.of(params))
    dim = params.truncate_dim or teacher_dim(sources.teacher.value)
    size = None
    if dim:
        embeddings = stored_bytes(len(captions), dim, params.embedding_dtype)
        size = embeddings + captions.nbytes + pairs.nbytes
    counts = {"pairs": pairs.num_rows, "captions": len(captions), "encoded_captions": unknown}
    return Work(
        counts=counts, paced_by="encoded_captions", like=("max_tokens", "truncate_dim", "teacher_precision"), size=size
    )


def teacher_dim(source: TeacherSource) -> int | None:
    """Return the width of a teacher's embeddings from its files; None if they do not tell."""
    if source.kind == "word-vectors":
        try:
            return measure_vectors(source.path)[1]
        except ValueError:
            return None
    try:
        folders = [source.path / module["path"] for module in json.loads((source.path / "modules.json").read_bytes())]
        configs = [
            json.loads((folder / "config.json").read_bytes())
            for folder in folders
            if (folder / "config.json").is_file()
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    widths = [config[name] for config in configs for name in _WIDTHS if isinstance(config.get(name), int)]
    return widths[-1] if widths else None
