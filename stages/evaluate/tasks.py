"""The tasks: each turns a set and its embeddings into measures and into what the page shows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_schemas.manifest import Rejection
from stages.evaluate.features import ImageEmbeddings
from stages.evaluate.knn import knn_metrics
from stages.evaluate.page import (
    CaptionQuery,
    ClassAccuracy,
    ClassExample,
    FoundCaption,
    FoundImage,
    Gallery,
    ImageQuery,
    choose_queries,
    thumbnail,
)
from stages.evaluate.prompts import class_name_from_folder, fill
from stages.evaluate.sets import LabelledSet, RetrievalSet, Splits
from stages.evaluate.zero_shot import class_embeddings, class_scores, per_class_top1, zero_shot_metrics
from stages.image_set import ImageSet
from stages.retrieval import chance_recall, retrieval_metrics, top_captions, top_images

NUM_QUERIES = 12
_FOUND_IMAGES, _FOUND_CAPTIONS, _EXAMPLES = 6, 5, 24
_THUMBNAIL_SIZE = 192

EmbedCaptions = Callable[[tuple[str, ...]], Tensor]


@dataclass(frozen=True)
class _Pair:
    """Embeddings of a retrieval set: (images, dim), (captions, dim), and (captions,) int64, each caption's image."""

    images: Tensor
    captions: Tensor
    caption_image: Tensor


@dataclass(frozen=True)
class SetReport:
    """What a task found on a set.

    Args:
        entry: for the report: name, task, sizes, metrics and chance under the same keys.
        prefix: put before each metric's key in the flat mapping.
        gallery: for the page, or None.
    """

    entry: dict[str, Any]
    prefix: str
    gallery: Gallery | None = None

    def flat(self) -> dict[str, float]:
        """Metrics by set, direction and measure: ``test/text_to_image/recall@10``."""
        return {f"{self.prefix}/{key}": value for key, value in self.entry["metrics"].items()}


def retrieval(found: RetrievalSet, images: ImageEmbeddings, embed_captions: EmbedCaptions) -> SetReport:
    """Image-text retrieval, both ways; captions of pictures that cannot be read are left out with them."""
    place = {int(row): index for index, row in enumerate(images.rows)}
    kept = [index for index, image in enumerate(found.caption_image) if image in place]
    captions = embed_captions(found.captions)[kept]
    caption_image = torch.tensor([place[found.caption_image[index]] for index in kept])
    pair = _Pair(images.embeddings, captions, caption_image)
    entry = {
        "name": found.name,
        "task": "retrieval",
        "num_images": len(images.rows),
        "num_captions": len(kept),
        **_rejected((*found.rejections, *images.rejections)),
        "metrics": retrieval_metrics(
            image_embeddings=pair.images, caption_embeddings=pair.captions, caption_image=pair.caption_image
        ),
        "chance": chance_recall(caption_image=caption_image, num_images=len(images.rows)),
    }
    texts = [found.captions[index] for index in kept]
    gallery = Gallery(
        set_name=found.name,
        caption_queries=_caption_queries(found.images.value, images.rows, texts, pair),
        image_queries=_image_queries(found.images.value, images.rows, texts, pair),
    )
    return SetReport(entry=entry, prefix=found.name, gallery=gallery)


def zero_shot(
    found: LabelledSet, images: ImageEmbeddings, embed_captions: EmbedCaptions, *, templates: tuple[str, ...]
) -> SetReport:
    """Zero-shot classification by prompts."""
    names = [class_name_from_folder(folder) for folder in found.folder.classes]
    prompts = embed_captions(tuple(fill(template, name) for name in names for template in templates))
    classes = class_embeddings(prompts.reshape(len(names), len(templates), -1))
    labels = torch.tensor(found.folder.labels)[images.rows]
    metrics = zero_shot_metrics(image_embeddings=images.embeddings, labels=labels, class_embeddings=classes)
    entry = _labelled_entry(found, images, "zero_shot", metrics) | {"templates": list(templates)}
    scores = class_scores(image_embeddings=images.embeddings, class_embeddings=classes)
    counts = torch.bincount(labels, minlength=len(names))
    accuracies = tuple(
        ClassAccuracy(class_name=name, top1=float(top1), num_images=int(count))
        for name, top1, count in zip(names, per_class_top1(scores=scores, labels=labels), counts, strict=True)
        if count
    )
    predicted = scores.argmax(dim=1)
    pictures: ImageSet = found.images.value
    examples = tuple(
        ClassExample(
            image=_thumbnail(pictures, images.rows, index),
            path=pictures.paths[int(images.rows[index])],
            true_class=names[int(labels[index])],
            predicted_class=names[int(predicted[index])],
        )
        for index in choose_queries(_EXAMPLES, len(labels))
    )
    gallery = Gallery(set_name=found.folder.name, class_examples=examples, class_accuracies=accuracies)
    return SetReport(entry=entry, prefix=f"{found.folder.name}/zero_shot", gallery=gallery)


def knn(found: Splits, train: ImageEmbeddings, test: ImageEmbeddings, *, k: int, temperature: float) -> SetReport:
    """Nearest-neighbour classification in the student's space."""
    metrics = knn_metrics(
        train_embeddings=train.embeddings,
        train_labels=torch.tensor(found.train.folder.labels)[train.rows],
        test_embeddings=test.embeddings,
        test_labels=torch.tensor(found.test.folder.labels)[test.rows],
        k=k,
        temperature=temperature,
    )
    entry = _labelled_entry(found.test, test, "knn", metrics)
    entry |= {"num_train_images": len(train.rows), "k": k, "temperature": temperature}
    return SetReport(entry=entry, prefix=f"{found.test.folder.name}/knn")


def _labelled_entry(
    found: LabelledSet, images: ImageEmbeddings, task: str, metrics: dict[str, float]
) -> dict[str, Any]:
    num_classes = len(found.folder.classes)
    chance = {"top1": 100 / num_classes, "top5": 500 / num_classes, "mean_per_class": 100 / num_classes}
    return {
        "name": found.folder.name,
        "task": task,
        "num_images": len(images.rows),
        "num_classes": num_classes,
        **_rejected(images.rejections),
        "metrics": metrics,
        "chance": {key: chance[key] for key in metrics},
    }


def _rejected(rejections: tuple[Rejection, ...]) -> dict[str, Any]:
    first = f"{rejections[0].value}: {rejections[0].reason}" if rejections else ""
    return {"rejected": len(rejections), "first_rejected": first}


def _caption_queries(pictures: ImageSet, rows: Tensor, texts: list[str], pair: _Pair) -> tuple[CaptionQuery, ...]:
    asked = choose_queries(NUM_QUERIES, len(texts))
    found = top_images(
        image_embeddings=pair.images,
        caption_embeddings=pair.captions,
        caption_image=pair.caption_image,
        captions=asked,
        k=_FOUND_IMAGES,
    )
    caption_image = pair.caption_image
    first_caption = _first_captions(texts, caption_image)
    similarity = torch.nn.functional.cosine_similarity(pair.captions[asked], pair.images[caption_image[asked]], dim=1)

    def show(image: int, score: float, *, is_true: bool) -> FoundImage:
        return FoundImage(
            image=_thumbnail(pictures, rows, image),
            caption=first_caption[image],
            path=pictures.paths[int(rows[image])],
            similarity=score,
            is_true=is_true,
        )

    return tuple(
        CaptionQuery(
            caption=texts[caption],
            true_image=show(int(caption_image[caption]), float(similarity[query]), is_true=True),
            rank=int(found.ranks[query]),
            found=tuple(
                show(int(image), float(score), is_true=int(image) == int(caption_image[caption]))
                for image, score in zip(found.indices[query], found.scores[query], strict=True)
            ),
        )
        for query, caption in enumerate(asked)
    )


def _image_queries(pictures: ImageSet, rows: Tensor, texts: list[str], pair: _Pair) -> tuple[ImageQuery, ...]:
    asked = choose_queries(NUM_QUERIES, len(rows))
    found = top_captions(
        image_embeddings=pair.images,
        caption_embeddings=pair.captions,
        caption_image=pair.caption_image,
        images=asked,
        k=_FOUND_CAPTIONS,
    )
    first_caption = _first_captions(texts, pair.caption_image)
    return tuple(
        ImageQuery(
            image=_thumbnail(pictures, rows, image),
            caption=first_caption[image],
            path=pictures.paths[int(rows[image])],
            rank=int(found.ranks[query]),
            found=tuple(
                FoundCaption(
                    caption=texts[int(caption)],
                    similarity=float(score),
                    is_true=int(pair.caption_image[int(caption)]) == image,
                )
                for caption, score in zip(found.indices[query], found.scores[query], strict=True)
            ),
        )
        for query, image in enumerate(asked)
    )


def _thumbnail(pictures: ImageSet, rows: Tensor, index: int) -> str:
    return thumbnail(Path(pictures.full_path(int(rows[index]))), size=_THUMBNAIL_SIZE)


def _first_captions(texts: list[str], caption_image: Tensor) -> dict[int, str]:
    """The first caption of each picture, to be read out in the picture's place."""
    return {int(image): text for image, text in reversed(list(zip(caption_image, texts, strict=True)))}
