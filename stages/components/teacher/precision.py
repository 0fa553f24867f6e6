"""The numbers that a teacher computes with, and what fewer bits change."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from data_schemas.errors import ProtoRKDError
from pipeline.log import log

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def set_precision(model: SentenceTransformer, precision: str, device: torch.device) -> None:
    """Turn the weights of a model's first module into bf16 or fp16; pooling and what follows stay in fp32.

    Args:
        model: with weights in fp32.
        precision: "bf16" or "fp16".
        device: where it runs.

    Raises:
        ProtoRKDError: fp16 is asked for on a device other than a GPU, where it would underflow without being fast.
    """
    if precision == "fp16" and device.type != "cuda":
        raise ProtoRKDError(
            f"--teacher-precision must be fp32 or bf16 on {device.type}; got fp16. Use --teacher-precision bf16."
        )
    model[0].to(_DTYPES[precision])
    model[0].register_forward_hook(_widen)
    if device.type != "cuda":
        _attend_plainly(model[0])


def _attend_plainly(module: Any) -> None:
    """Let a transformer multiply its short attention matrices out: in bf16 a CPU does that quicker than fused."""
    network: Any = getattr(module, "auto_model", None)
    if getattr(getattr(network, "config", None), "_attn_implementation", "") == "sdpa":
        network.set_attn_implementation("eager")


def draw_sample(captions: pa.Array) -> list[str]:
    """Draw the captions by which fewer bits are compared with fp32, the same ones in every run.

    One in a hundred, from 16 to 256: in fp32 a caption takes as long as two or three others.
    """
    size = min(max(len(captions) // 100, 16), 256, len(captions))
    rows = np.random.default_rng(0).choice(len(captions), size=size, replace=False)
    sample: list[str] = captions.take(pa.array(np.sort(rows))).to_pylist()
    return sample


def nearness(embeddings: NDArray[np.float32], exact: NDArray[np.float32]) -> dict[str, float]:
    """How near embeddings are to those in fp32: the mean and the least cosine, and of how many.

    A caption whose embedding is the zero vector in both counts as 1.

    Shapes:
        embeddings, exact: (captions, dim), float32.
    """
    lengths = np.linalg.norm(embeddings, axis=1) * np.linalg.norm(exact, axis=1)
    products = np.einsum("cd,cd->c", embeddings, exact)
    both_zero = ~(embeddings.any(axis=1) | exact.any(axis=1))
    cosines = np.where(both_zero, 1.0, products / np.maximum(lengths, np.finfo(np.float32).tiny))
    return {
        "fp32_cosine_mean": float(cosines.mean()),
        "fp32_cosine_min": float(cosines.min()),
        "fp32_cosine_captions": float(len(cosines)),
    }


def tell_nearness(found: Mapping[str, float], *, precision: str) -> None:
    """Log what `nearness` has found."""
    log.info(
        "the teacher in %s: cosine to fp32 %.6f in the mean, %.6f at least, of %d captions", precision, *found.values()
    )


def _widen(_module: torch.nn.Module, _inputs: object, features: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in features.items()
    }
