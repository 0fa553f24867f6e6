"""Batches of the teacher cut by a token budget, against batches of 32 captions."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers.utils.logging import disable_progress_bar

from benchmarks.measure import Comparison, compare_time
from benchmarks.settings import Settings
from data_schemas.manifest import read_manifest
from stages.teacher import Teacher
from stages.teacher_identity import find_teacher


def compare(settings: Settings) -> list[Comparison]:
    """Compare on real captions, with a real transformer."""
    if settings.data is None or settings.teacher is None:
        print("encoding: skipped, it needs real captions and the dependency group minilm (see CONTRIBUTING.md).")
        return []
    return compare_encoding(
        manifest=settings.data / "coco22k" / "train.tsv",
        teacher_folder=settings.teacher,
        num_captions=768,
        num_pairs=settings.num_pairs,
    )


def compare_encoding(*, manifest: Path, teacher_folder: Path, num_captions: int, num_pairs: int) -> list[Comparison]:
    """Compare the time to embed the first captions of a manifest, after a check that both give the same embeddings.

    Args:
        manifest: A TSV with the columns filepath and title.
        teacher_folder: A sentence-transformers model.
        num_captions: How many of its captions.
        num_pairs: Timed pairs of calls.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]
    captions = _captions(manifest, num_captions)
    teacher = Teacher(find_teacher(str(teacher_folder)))
    plain = SentenceTransformer(str(teacher_folder), device="cpu", local_files_only=True)

    def ours() -> NDArray[np.float32]:
        return teacher.encode(captions)

    def direct() -> NDArray[np.float32]:
        return np.asarray(plain.encode(captions, batch_size=32, show_progress_bar=False))

    np.testing.assert_allclose(ours(), direct(), atol=1e-4)
    subject = f"teacher, {len(captions)} captions in batches of equal length: time"
    return [
        compare_time(subject, baseline_name="batches of 32 captions", baseline=direct, ours=ours, num_pairs=num_pairs)
    ]


def _captions(manifest: Path, num_captions: int) -> list[str]:
    found = read_manifest(manifest, limit=num_captions)
    captions: list[str] = found.table["caption"].to_pylist()
    return captions
