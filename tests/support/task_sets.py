"""Small sets and their embeddings, without files, for the tests of tasks."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from data_schemas.manifest import Rejection
from pipeline.stage import Input
from stages.components.images.image_set import ImageSet
from stages.evaluate.embeddings.cached_embeddings import ImageEmbeddings
from stages.evaluate.sets.evaluation_sets import ClassSet, LabelledSet, RetrievalSet
from stages.evaluate.sets.image_folder import ImageFolder


def embeddings(rows: Tensor, *, unread: tuple[int, ...] = (), features: Tensor | None = None) -> ImageEmbeddings:
    """Make embeddings of all images of a set except the unreadable ones."""
    read = torch.tensor([row for row in range(len(rows)) if row not in unread])
    return ImageEmbeddings(
        embeddings=rows[read],
        features=(rows if features is None else features)[read],
        rows=read,
        rejections=tuple(Rejection(row=row, reason="truncated", value=f"{row}.jpg") for row in unread),
        digest="",
        precision="fp32",
    )


def by_name(table: dict[str, Tensor]) -> Callable[[tuple[str, ...]], Tensor]:
    """Make a function that embeds captions by looking them up."""
    return lambda captions: torch.stack([table[caption] for caption in captions])


def retrieval_set(
    num_images: int = 60, *, captions: int = 3, noise: float = 1.5, dim: int = 6, seed: int = 0
) -> tuple[RetrievalSet, Tensor, Tensor]:
    """Make a set, a row per image and a row per caption; the captions of an image do not follow each other."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(num_images, dim, generator=generator)
    caption_image = torch.arange(num_images).repeat(captions)
    rows = images[caption_image] + noise * torch.randn(len(caption_image), dim, generator=generator)
    paths = [f"{number:03}.jpg" for number in reversed(range(num_images))]
    pairs = RetrievalSet(
        name="pairs",
        images=Input(digest="", value=ImageSet(root=Path(), paths=paths)),
        captions=tuple(f"caption {number}" for number in range(len(rows))),
        caption_image=tuple(caption_image.tolist()),
        rejections=(),
    )
    return pairs, images, rows


def of_captions(pairs: RetrievalSet, rows: Tensor) -> Callable[[tuple[str, ...]], Tensor]:
    """Make a function that embeds the captions of a set."""
    return by_name(dict(zip(pairs.captions, rows, strict=True)))


def class_set(
    num_classes: int = 7, *, num_train: int = 70, num_test: int = 50, dim: int = 6, mean_per_class: bool = False
) -> tuple[ClassSet, dict[str, Tensor]]:
    """Make a set of classes of unlike sizes, and the rows of train and test."""
    generator = torch.Generator().manual_seed(num_classes)
    centres = torch.randn(num_classes, dim, generator=generator)
    names = tuple(f"kind {number}" for number in range(num_classes))
    splits, rows = {}, {}
    for split, size in (("train", num_train), ("test", num_test)):
        labels = (torch.rand(size, generator=generator).square() * num_classes).long()
        labels[: 2 * num_classes] = torch.arange(num_classes).repeat(2)[:size]
        rows[split] = centres[labels] + torch.randn(size, dim, generator=generator)
        paths = tuple(f"{split}/{number:03}.jpg" for number in range(size))
        folder = ImageFolder(name="kinds", root=Path(split), classes=names, images=paths, labels=tuple(labels.tolist()))
        images = Input(digest=split, value=ImageSet(root=Path(split), paths=paths))
        splits[split] = LabelledSet(folder=folder, images=images)
    found = ClassSet(name="kinds", class_names=names, mean_per_class=mean_per_class, **splits)
    return found, rows


def labels_of(kinds: ClassSet, split: str) -> Tensor:
    """Take the labels of all images of a split."""
    return torch.tensor({"train": kinds.train, "test": kinds.test}[split].folder.labels)
