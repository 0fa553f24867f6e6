"""Tiny vision models of transformers with random weights, saved as they lie on the hub, and the hub's cache by hand."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_VIT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
_TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 10,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "projection_size": 16,
}
_SIDE = {"height": 32, "width": 32}


def _make(kind: str) -> tuple[Any, Any]:
    """Build a model and its image processor."""
    import transformers as hf

    crop = {"size": {"shortest_edge": 36}, "crop_size": _SIDE}
    makers: dict[str, Callable[[], tuple[Any, Any]]] = {
        "vit": lambda: (hf.ViTModel(hf.ViTConfig(**_VIT)), hf.ViTImageProcessor(size=_SIDE)),
        "vit-classifier": lambda: (
            hf.ViTForImageClassification(hf.ViTConfig(**_VIT)),
            hf.ViTImageProcessor(size=_SIDE),
        ),
        "deit": lambda: (
            hf.DeiTModel(hf.DeiTConfig(**_VIT)),
            hf.DeiTImageProcessor(size={"height": 36, "width": 36}, crop_size=_SIDE),
        ),
        "dinov2": lambda: (hf.Dinov2Model(hf.Dinov2Config(**_VIT)), hf.BitImageProcessor(**crop)),
        "dinov2-registers": lambda: (
            hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**_VIT, num_register_tokens=4)),
            hf.BitImageProcessor(**crop),
        ),
        "dinov3": lambda: (
            hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**_VIT, num_register_tokens=4)),
            hf.DINOv3ViTImageProcessor(size=_SIDE),
        ),
        "clip": lambda: (
            hf.CLIPModel(
                hf.CLIPConfig(vision_config=_VIT, text_config={**_TEXT, "projection_dim": 12}, projection_dim=12)
            ),
            hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=_SIDE),
        ),
        "siglip": lambda: (
            hf.SiglipModel(hf.SiglipConfig(vision_config=_VIT, text_config=_TEXT)),
            hf.SiglipImageProcessor(size=_SIDE),
        ),
        "convnext": lambda: (
            hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[4, 8, 8, 16], depths=[1, 1, 1, 1], image_size=32)),
            hf.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875),
        ),
    }
    return makers[kind]()


def save_vision_model(kind: str, folder: Path) -> Path:
    """Save a tiny model with random weights, and its image processor, by transformers itself."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = _make(kind)
        with torch.no_grad():
            for parameter in model.parameters():  # away from zeros and ones, so that each tensor counts
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def put_into_cache(folder: Path, repository: str, *, home: Path) -> None:
    """Lay a model's files into the hub's cache below ``home``, as the hub's client does."""
    place = home / "hub" / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
