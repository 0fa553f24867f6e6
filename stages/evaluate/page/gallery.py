"""What the page shows of an evaluation: images with what the student makes of them."""

from dataclasses import dataclass

from stages.evaluate.page.scatter_svg import DrawnMap


@dataclass(frozen=True)
class FoundImage:
    """An image that is retrieved for a caption.

    Attributes:
        image: Data URI, from `thumbnail`.
        caption: Caption that describes the image, read out in its place.
        path: Path of the image, shown on hover.
        similarity: Cosine with the caption of the query.
        is_true: Whether the caption of the query describes the image.
    """

    image: str
    caption: str
    path: str
    similarity: float
    is_true: bool


@dataclass(frozen=True)
class FoundCaption:
    """A caption that is retrieved for an image, its cosine with the image, and whether it describes the image."""

    caption: str
    similarity: float
    is_true: bool


@dataclass(frozen=True)
class CaptionQuery:
    """A caption as a query for images.

    Attributes:
        caption: Caption of the query.
        true_image: Image that it describes.
        rank: Rank of that image among all, from 1.
        found: Nearest images, best first.
    """

    caption: str
    true_image: FoundImage
    rank: int
    found: tuple[FoundImage, ...]


@dataclass(frozen=True)
class ImageQuery:
    """An image as a query for captions.

    Attributes:
        image: Data URI, from `thumbnail`.
        caption: Caption that describes the image, read out in its place.
        path: Path of the image, shown on hover.
        rank: Rank of the first caption that describes it, from 1.
        found: Nearest captions, best first.
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
class ConfusedClass:
    """A class that images of another are taken for, and their share of that other class, a percentage."""

    class_name: str
    share: float


@dataclass(frozen=True)
class Confusion:
    """What the images of a class are taken for, the most frequent first, and some that are taken for another class."""

    accuracy: ClassAccuracy
    taken_for: tuple[ConfusedClass, ...]
    examples: tuple[ClassExample, ...]


@dataclass(frozen=True)
class EmbeddingMap:
    """A map of a set's images.

    Attributes:
        drawn: Dots, and what their colours mean.
        method: Layout of the map: ``pca`` or ``tsne``.
        grouping: What a colour stands for: ``class`` or ``cluster``.
        num_images: Images of the set; a map shows a sample of many.
    """

    drawn: DrawnMap
    method: str
    grouping: str
    num_images: int


@dataclass(frozen=True)
class Gallery:
    """What the page shows of one set.

    Attributes:
        set_name: Name of the set in reports.
        caption_queries: Captions spread evenly over the set.
        caption_hits: Captions that find their own image first.
        caption_misses: Captions whose own image comes last, the worst first.
        image_queries: Images spread evenly over the set.
        class_examples: Images spread evenly over the set.
        class_accuracies: Accuracy of each class with images.
        confusions: Confusions of the classes with the lowest accuracy, the worst first.
        embedding_map: Map of the set's images in the plane, or None for too few of them.
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
    """A prototype: the captions and the images that lie nearest to its centroid.

    Attributes:
        group: Why it is shown, a key of `stages.components.report.prototype_examples.GROUPS`.
        prototype: Number of the prototype.
        size: Number of its captions.
        mean_cosine: Mean cosine of its captions with its centroid.
        captions: Captions nearest to the centroid, the nearest first, with their cosine.
        images: Images of the evaluated set, the nearest first; ``is_true`` says nothing here.
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
        distance: Bits in which the hashes of the two differ; 0 for exact copies.
    """

    evaluation_image: str
    evaluation_path: str
    training_image: str
    training_path: str
    exact: bool
    distance: int
