"""Load an export's folder as its users do, and compare it with teacher and student."""

import contextlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_schemas.calibration import Calibration
from stages.components.calibration.extended_vectors import extend_images
from stages.components.student.checkpoints import StudentWeights
from stages.components.student.encoder import StudentEncoder
from stages.components.student.student import Student
from stages.components.teacher.encoding_options import EncodingOptions
from stages.components.teacher.identity import TeacherSource
from stages.components.teacher.loading import load_model as load_teacher
from stages.components.teacher.teacher import Teacher
from stages.export.loading import load_model
from stages.export.parity import CAPTIONS, require_near, require_same, sample_images, unit

Vectors = NDArray[np.float32]

_PLAIN_CAPTIONS = tuple(caption for caption in CAPTIONS if "://" not in caption)  # the library would open the others


def check_folder(
    folder: Path,
    chosen: StudentWeights,
    student: Student,
    source: TeacherSource,
    *,
    query_prompt: str | None,
    calibration: Calibration | None,
) -> dict[str, float]:
    """Compare captions with the teacher, bit for bit with the bare one, and images with the student.

    Args:
        folder: Folder of the export.
        chosen: Weights of the student.
        student: The same, loaded.
        source: Source of the teacher.
        query_prompt: Text that ``encode_query`` puts before a query; None for the captions' own.
        calibration: What extends the embeddings; None where they are raw.

    Returns:
        Largest differences in one number, by what is compared.

    Raises:
        ProtoRKDError: captions, queries or images differ by more than rounding, or captions from the bare teacher's.
    """
    recipe = EncodingOptions.of(chosen.config.teacher.recipe)
    with contextlib.redirect_stderr(io.StringIO()):  # the library's progress bars
        model = load_model(folder, device="cpu", trust_remote_code=source.trusts_code)
    of_queries, of_captions = ((), ()) if calibration is None else ((1.0,), (0.0,))  # what rows end in
    differences = {}
    queries = _encode(model.encode_query, CAPTIONS)
    if query_prompt is not None:
        wanted = _by_teacher(source, replace(recipe, prompt=query_prompt))
        differences["query"] = require_near(queries, _ending(wanted, of_queries), what="Queries")
    require_same(queries[:, chosen.config.teacher.dim :], _ending(queries[:, :0], of_queries), what="Queries")
    captions = _ending(_by_teacher(source, recipe), of_captions)
    differences["text"] = require_near(_encode(model.encode, CAPTIONS), captions, what="Captions")
    bare = _ending(_by_bare_teacher(source, recipe), of_captions)
    require_same(_encode(model.encode, _PLAIN_CAPTIONS), bare, what="Captions")
    images = sample_images()
    embedded = unit(StudentEncoder(student, chosen.config, device=torch.device("cpu")).encode(images))
    differences["image"] = require_near(
        _encode(model.encode, images),
        embedded if calibration is None else extend_images(embedded, calibration),
        what="Images",
    )
    return differences


def _encode(encode: Any, inputs: Any) -> Vectors:
    vectors: Vectors = encode(list(inputs), show_progress_bar=False)
    return vectors


def _ending(vectors: Vectors, ends: tuple[float, ...]) -> Vectors:
    return np.column_stack([vectors, np.tile(np.asarray(ends, np.float32), (len(vectors), 1))])


def _by_teacher(source: TeacherSource, recipe: EncodingOptions) -> Vectors:
    """Embed the captions of the comparison by the teacher, at unit length."""
    teacher = Teacher(source, max_tokens=recipe.max_tokens, prompt=recipe.prompt, truncate_dim=recipe.truncate_dim)
    return unit(teacher.encode(CAPTIONS))


def _by_bare_teacher(source: TeacherSource, recipe: EncodingOptions) -> Vectors:
    """Embed captions as the library alone does with the teacher's own files, at unit length."""
    model = load_teacher(source).eval()
    if recipe.max_tokens:
        model.max_seq_length = recipe.max_tokens
    vectors: Vectors = model.encode(
        list(_PLAIN_CAPTIONS),
        prompt=recipe.prompt or None,
        truncate_dim=recipe.truncate_dim or None,
        normalize_embeddings=True,
        show_progress_bar=False,
    )
    return vectors
