"""ProtoRKD in Python: each stage as a function, and what stages made, opened.

The functions are made from the same declarations as the commands, so names, defaults, checks and results are the same:
``protorkd distill --image-size 64`` is ``protorkd.distill(image_size=64)``. `help` lists the options of each.

Example:
    >>> import protorkd
    >>> encoded = protorkd.encode_teacher(manifest="train.tsv", teacher="all-MiniLM-L6-v2")  # doctest: +SKIP
    >>> student = protorkd.distill(embeddings=encoded, image_size=64, epochs=4)  # doctest: +SKIP
    >>> protorkd.evaluate(student=student, retrieval="test.tsv").metrics  # doctest: +SKIP
    >>> protorkd.load_student(student).encode(["zebra.jpg"])  # doctest: +SKIP
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import Preprocessing
from pipeline.python_api import StageResult, open_store, stage_function
from stages import STAGES
from stages.components.backbones.module_family import Backbone

if TYPE_CHECKING:
    import pyarrow as pa

    from stages.components.embeddings.embedding_rows import EmbeddingRows
    from stages.components.student.encoder import StudentEncoder

# Made below, like the functions of all other stages; named here for readers and type checkers.
encode_teacher: Callable[..., StageResult]
encode_images: Callable[..., StageResult]
pack: Callable[..., StageResult]
prototypes: Callable[..., StageResult]
report: Callable[..., StageResult]
distill: Callable[..., StageResult]
evaluate: Callable[..., StageResult]
export: Callable[..., StageResult]

globals().update({stage.name.replace("-", "_"): stage_function(stage, stages=STAGES) for stage in STAGES})

__all__ = ["Backbone", "CachedEmbeddings", "Preprocessing", "ProtoRKDError", "StageResult"]
__all__ += ["load_embeddings", "load_model", "load_student", "runs"]
__all__ += [stage.name.replace("-", "_") for stage in STAGES]

Reference = str | os.PathLike[str] | None
"""An artifact: a fingerprint or its beginning, a path, what a function returned, or None for the newest."""


@dataclass(frozen=True)
class CachedEmbeddings:
    """Embeddings, captions and pairs of an artifact of ``encode_teacher``.

    Args:
        captions: The distinct captions; row k's embedding is row k.
        embeddings: Rows of shape (captions, dim), read and proven when indexed; ``embeddings[:]`` is a NumPy array.
        pairs: One row a pair: manifest_row, image and caption_row; label where there are labels.
    """

    captions: "pa.Array"
    embeddings: "EmbeddingRows"
    pairs: "pa.Table"


def load_embeddings(reference: Reference = None, *, store: Reference = None) -> CachedEmbeddings:
    """Open the captions' embeddings of an artifact of ``encode_teacher``.

    Args:
        reference: The artifact; None takes the newest.
        store: Folder of all artifacts. Default: what PROTORKD_STORE says, or store.

    Raises:
        ProtoRKDError: there is no such artifact, or it is damaged.
    """
    from data_schemas.pair_index import CAPTIONS_NAME, PAIRS_NAME, read_captions, read_pairs
    from stages.components.embeddings.embedding_rows import EmbeddingRows

    artifact = open_store(store).resolve(_text(reference), stage="encode-teacher", flag="reference")
    artifact.require_whole()
    artifact.require_whole((CAPTIONS_NAME, PAIRS_NAME), read=True)
    rows = EmbeddingRows(artifact)
    return CachedEmbeddings(captions=read_captions(artifact.path), embeddings=rows, pairs=read_pairs(artifact.path))


def load_student(
    reference: Reference = None, *, store: Reference = None, epoch: int | None = None, device: str = "auto"
) -> "StudentEncoder":
    """Open a student of ``distill``, to embed images with it.

    Args:
        reference: The artifact; None takes the newest.
        store: Folder of all artifacts. Default: what PROTORKD_STORE says, or store.
        epoch: Load the weights kept after this epoch; None takes the last ones.
        device: Where to compute: auto, cpu, cuda, ...; a GPU without a number is the one that torch takes.

    Raises:
        ProtoRKDError: there is no such artifact or epoch, or it is damaged.
    """
    from stages.components.student.encoder import open_student

    opened = open_store(store)
    artifact = opened.resolve(_text(reference), stage="distill", flag="reference")
    return open_student(artifact, store=opened, epoch=epoch, device=device)


def load_model(folder: str | os.PathLike[str], *, device: str | None = None, trust_remote_code: bool = False) -> Any:
    """Open what ``export`` made, as a SentenceTransformer, whose ``encode`` takes captions or PIL images.

    Args:
        folder: An artifact's folder, a copy of one, or its name on the model hub; no code in it runs.
        device: Where to compute; None takes a GPU where there is one.
        trust_remote_code: Let code that came with the teacher run.

    Raises:
        ProtoRKDError: it is no such export, or cannot be loaded.
    """
    from stages.export import loading

    return loading.load_model(os.fspath(folder), device=device, trust_remote_code=trust_remote_code)


def runs(*, store: Reference = None, where: str | Sequence[str] = (), as_frame: bool = False) -> Any:
    """List every student with its options, what it reached and what it took, as the command ``runs`` does.

    Args:
        store: Folder of all artifacts. Default: what PROTORKD_STORE says, or store.
        where: Conditions that students must fulfil, such as ``lr=0.002`` or ``test/mean_recall>30``.
        as_frame: Return a DataFrame of pandas, which must be installed, with a row for each student.

    Returns:
        A list of dicts, the first made first: ``fingerprint``, ``path``, ``created``, the options by name with ``-``,
        metrics, their intervals as ``<metric>/low`` and ``<metric>/high``, ``seconds`` and ``pairs``.

    Raises:
        ProtoRKDError: a condition names nothing that is known, or pandas is asked for and not installed.
    """
    from pipeline.results.columns import keep_rows
    from pipeline.results.rows import flat, result_rows

    rows = result_rows(open_store(store), STAGES)
    students = [flat(row) for row in keep_rows(rows, [where] if isinstance(where, str) else where, flag="where")]
    if not as_frame:
        return students
    try:
        import pandas  # type: ignore[import-untyped]
    except ImportError as error:
        raise ProtoRKDError(
            "as_frame must have pandas to make a DataFrame; it is not installed. Run pip install pandas, or leave "
            "as_frame out for a list of dicts."
        ) from error
    return pandas.DataFrame(students)


def _text(reference: Reference) -> str | None:
    return None if reference is None else os.fspath(reference)
