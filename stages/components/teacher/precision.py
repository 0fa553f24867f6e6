"""Set the precision that a teacher computes in, and draw the captions on which it is compared with fp32."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from sentence_transformers import SentenceTransformer

from data_schemas.errors import ProtoRKDError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def set_precision(model: SentenceTransformer, precision: str, device: torch.device) -> None:
    """Convert the weights of a model's first module to bf16 or fp16; pooling and later modules stay in fp32.

    Args:
        model: Model with weights in fp32.
        precision: "bf16" or "fp16".
        device: Device of the model.

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
    """Switch a transformer to plain attention, which in bf16 a CPU computes faster than fused, for short captions."""
    network: Any = getattr(module, "auto_model", None)
    if getattr(getattr(network, "config", None), "_attn_implementation", "") == "sdpa":
        network.set_attn_implementation("eager")


def draw_sample(captions: pa.Array) -> list[str]:
    """Draw the captions on which fewer bits are compared with fp32, the same in every run.

    One in a hundred, from 16 to 256, because a caption takes two or three times as long in fp32.
    """
    size = min(max(len(captions) // 100, 16), 256, len(captions))
    rows = np.random.default_rng(0).choice(len(captions), size=size, replace=False)
    sample: list[str] = captions.take(pa.array(np.sort(rows))).to_pylist()
    return sample


def _widen(_module: torch.nn.Module, _inputs: object, features: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in features.items()
    }
