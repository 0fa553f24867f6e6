"""What there is to see of an evaluation: images with what the student makes of them."""

from dataclasses import dataclass

from stages.evaluate.page.scatter_svg import DrawnMap


@dataclass(frozen=True)
class FoundImage:
    """An image that a caption found.

    Attributes:
        image: data URI, from `thumbnail`.
        caption: what it shows, read out in its place.
        path: where it lies, shown on hover.
        similarity: cosine with the caption.
        is_true: whether the caption describes it.
    """

    image: str
    caption: str
    path: str
    similarity: float
    is_true: bool


@dataclass(frozen=True)
class FoundCaption:
    """A caption that an image found, its cosine with the image, and whether it describes it."""

    caption: str
    similarity: float
    is_true: bool


@dataclass(frozen=True)
class CaptionQuery:
    """A caption that asks for images.

    Attributes:
        caption: the query.
        true_image: the image that it describes.
        rank: place of that image among all, from 1.
        found: the nearest images, best first.
    """

    caption: str
    true_image: FoundImage
    rank: int
    found: tuple[FoundImage, ...]


@dataclass(frozen=True)
class ImageQuery:
    """An image that asks for captions.

    Attributes:
        image: data URI, from `thumbnail`.
        caption: what it shows, read out in its place.
        path: where it lies, shown on hover.
        rank: place of the first caption that describes it, from 1.
        found: the nearest captions, best first.
    """

    image: str
    caption: str
    path: str
    rank: int
    found: tuple[FoundCaption, ...]


@dataclass(frozen=True)
class ClassExample:
    """An image with its true class and the class that the student takes it for."""

    image: str
    path: str
    true_class: str
    predicted_class: str


@dataclass(frozen=True)
class ClassAccuracy:
    """Top-1 accuracy of one class, a percentage, and how many images, from 1, it rests on."""

    class_name: str
    top1: float
    num_images: int


@dataclass(frozen=True)
class TakenFor:
    """A class that images of another are taken for, and their share of that other class, a percentage."""

    class_name: str
    share: float


@dataclass(frozen=True)
class Confusion:
    """What the images of a class are taken for, the most frequent first, and some that are taken for another class."""

    accuracy: ClassAccuracy
    taken_for: tuple[TakenFor, ...]
    examples: tuple[ClassExample, ...]


@dataclass(frozen=True)
class EmbeddingMap:
    """A map of a set's images.

    Attributes:
        drawn: the dots, and what their colours mean.
        method: ``pca`` or ``tsne``.
        grouping: what a colour stands for: ``class`` or ``cluster``.
        num_images: how many the set has; a map shows a sample of many.
    """

    drawn: DrawnMap
    method: str
    grouping: str
    num_images: int


@dataclass(frozen=True)
class Gallery:
    """What there is to see of one set.

    Attributes:
        set_name: as reports call it.
        caption_queries: captions spread evenly over the set.
        caption_hits: captions that find their own image first.
        caption_misses: captions whose own image comes last, the worst first.
        image_queries: images spread evenly over the set.
        class_examples: images spread evenly over the set.
        class_accuracies: of all classes with images.
        confusions: of the classes that are known worst, the worst first.
        embedding_map: the set's images in the plane, or None for too few of them.
    """

    set_name: str
    caption_queries: tuple[CaptionQuery, ...] = ()
    image_queries: tuple[ImageQuery, ...] = ()
    class_examples: tuple[ClassExample, ...] = ()
    class_accuracies: tuple[ClassAccuracy, ...] = ()
    caption_hits: tuple[CaptionQuery, ...] = ()
    caption_misses: tuple[CaptionQuery, ...] = ()
    confusions: tuple[Confusion, ...] = ()
    embedding_map: EmbeddingMap | None = None


@dataclass(frozen=True)
class ContactSheet:
    """A prototype: captions at its heart, and the images that lie nearest to its centroid.

    Attributes:
        group: why it is shown, a key of `stages.components.report.prototype_examples.GROUPS`.
        prototype: its number.
        size: how many captions it has.
        mean_cosine: of these with its centroid.
        captions: those nearest to the centroid, the nearest first, with their cosine.
        images: of the evaluated set, the nearest first; ``is_true`` says nothing here.
    """

    group: str
    prototype: int
    size: int
    mean_cosine: float
    captions: tuple[tuple[str, float], ...]
    images: tuple[FoundImage, ...]


@dataclass(frozen=True)
class OverlapExample:
    """An evaluation image beside the training image that is its copy; images are data URIs.

    Attributes:
        distance: bits in which the hashes of the two differ; 0 for exact copies.
    """

    evaluation_image: str
    evaluation_path: str
    training_image: str
    training_path: str
    exact: bool
    distance: int
