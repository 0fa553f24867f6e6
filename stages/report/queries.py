"""Read queries, have the teacher embed them, and count the captions that lie near each."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas.errors import ProtoRKDError
from pipeline.stage import Context, Input
from pipeline.store.store import Artifact

if TYPE_CHECKING:
    import torch

    from stages.components.teacher.identity import TeacherSource
    from stages.report.corpus import CaptionCorpus


def read_queries(path: Path, context: Context) -> Input[tuple[str, ...]]:
    """Read a text file with a query a line; empty lines count for nothing, and repeated ones once.

    Raises:
        ProtoRKDError: there is no such file, it is no text in UTF-8, or it holds no query.
    """
    digest = context.file_digests.digests([path])[0]
    if digest is None:
        raise ProtoRKDError(f"--queries must name a text file with a query a line; got {path}. Check the path.")
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ProtoRKDError(f"--queries must be text in UTF-8; {path}: {error}. Save it as such.") from error
    queries = tuple(dict.fromkeys(filter(None, map(str.strip, lines))))
    if not queries:
        raise ProtoRKDError(f"--queries must hold a query a line; {path} is empty. Write one class name a line.")
    return Input(digest=digest, location=str(path.resolve()), value=queries)


def find_teacher(
    name: str | None, embeddings: Artifact, *, trust_code: bool, context: Context
) -> "Input[TeacherSource]":
    """Find the teacher that embedded the captions.

    Raises:
        ProtoRKDError: it is not here, or another one was named.
    """
    from stages.components.teacher.recorded import find_recorded_teacher

    return find_recorded_teacher(
        name,
        embeddings.record.inputs["teacher"].digest,
        what="the captions were embedded by",
        trust_code=trust_code,
        context=context,
    )


def measure_coverage(
    queries: tuple[str, ...],
    corpus: "CaptionCorpus",
    *,
    teacher: "Input[TeacherSource]",
    embeddings: Artifact,
    cosine: float,
    device: "torch.device",
) -> list[dict[str, Any]]:
    """Count the captions that lie at a cosine of each query or above, and name the nearest.

    A query that the teacher knows no word of has no nearest caption.

    Raises:
        ProtoRKDError: the teacher cannot be loaded, or gives numbers that are not finite.
    """
    import pyarrow as pa
    import torch

    from stages.components.embeddings.caption_embeddings import load_teacher
    from stages.components.metrics.unit_rows import TEACHER_REMEDY, unit_rows
    from stages.components.teacher.encoding_options import EncodingOptions
    from stages.report.measures.scan import scan

    recipe = EncodingOptions.of(embeddings.record.params)
    loaded = load_teacher(teacher, recipe, pa.array(queries, pa.large_string()), devices=[device])
    with loaded:
        vectors = unit_rows(torch.from_numpy(loaded.encode(queries)), name="Queries", remedy=TEACHER_REMEDY)
    found = scan(vectors.to(device), corpus.blocks(), levels=(cosine,))
    is_known = vectors.any(dim=1).tolist()
    return [
        {
            "query": query,
            "num_captions": int(found.counts[place, 0]) if is_known[place] else 0,
            "nearest": corpus.text(int(found.rows[place])) if is_known[place] else None,
            "cosine": float(found.cosines[place]) if is_known[place] else 0.0,
        }
        for place, query in enumerate(queries)
    ]
