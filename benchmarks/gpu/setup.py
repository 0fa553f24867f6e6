"""Folders of a GPU day, and the sizes of its work."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.records import read_record

if TYPE_CHECKING:
    import torch

    from pipeline.stage import Context

ROOT = Path(__file__).parents[2]
"""Of the repository, from which everything is run."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the data, models and measurements.

    Args:
        num_images: Number of drawn images, each with four captions.
        image_sides: Height and width of a drawn image, in pixels.
        short_side: Short side of an image in a pack, in pixels.
        student: Backbone that is trained.
        image_size: Side of its input, in pixels.
        transformer: Backbone and batch size of one more bare step, of matrix products mostly.
        small_student: Backbone that is trained where nothing is timed.
        small_image_size: Side of that backbone's input, in pixels.
        small_batch_size: Batch size of that backbone's trainings.
        small_workers: Processes that read images in that backbone's trainings.
        batches: Steps of a training by batch size; the first batch size is measured in every way.
        skip: First steps of a training that are not counted: clocks, allocators and the profiler's trace.
        teachers: Width and number of layers of each teacher, by its name.
        batch_tokens: Tokens in a batch of the teacher to try beside its default.
        library_batches: Batch sizes at which the library encodes.
        num_rows: Rows of the table of targets, and rows that k-means clusters.
        dim: Width of these rows.
        num_prototypes: Number of prototypes that k-means finds.
        objective_batch: Embeddings on each side of an objective.
        gathers: Numbers of rows that are gathered at a time.
        times: Number of timed calls of a quick operation.
    """

    num_images: int
    image_sides: tuple[int, int]
    short_side: int
    student: str
    image_size: int
    transformer: tuple[str, int]
    small_student: str
    small_image_size: int
    small_batch_size: int
    small_workers: int
    batches: Mapping[int, int]
    skip: int
    teachers: Mapping[str, tuple[int, int]]
    batch_tokens: int
    library_batches: tuple[int, ...]
    num_rows: int
    dim: int
    num_prototypes: int
    objective_batch: int
    gathers: tuple[int, ...]
    times: int

    @property
    def batch_size(self) -> int:
        """Batch size that is measured in every way."""
        return next(iter(self.batches))


FULL = Sizes(
    num_images=12_288,
    image_sides=(256, 341),
    short_side=256,
    student="resnet50",
    image_size=224,
    transformer=("vit_b_16", 256),
    small_student="resnet18",
    small_image_size=64,
    small_batch_size=256,
    small_workers=2,
    batches={512: 40, 1024: 32, 256: 48},
    skip=16,
    teachers={"bert-6x384": (384, 6), "bert-12x768": (768, 12)},
    batch_tokens=131_072,
    library_batches=(256, 1024, 4096),
    num_rows=2_500_000,
    dim=768,
    num_prototypes=20_000,
    objective_batch=1024,
    gathers=(1024, 16_384),
    times=20,
)
TINY = Sizes(
    num_images=96,
    image_sides=(72, 96),
    short_side=72,
    student="squeezenet1_1",
    image_size=32,
    transformer=("swin_t", 2),
    small_student="resnet18",
    small_image_size=32,
    small_batch_size=8,
    small_workers=0,
    batches={16: 6, 8: 6},
    skip=2,
    teachers={"bert-2x48": (48, 2)},
    batch_tokens=4096,
    library_batches=(32, 64),
    num_rows=2000,
    dim=32,
    num_prototypes=50,
    objective_batch=16,
    gathers=(16, 64),
    times=3,
)


@dataclass(frozen=True)
class Setup:
    """Sizes and folders that a step works with.

    Args:
        sizes: Sizes of its work.
        out: Folder of the records.
        data: Folder of images, packs, teachers and everything else that steps leave for one another.
    """

    sizes: Sizes
    out: Path
    data: Path

    @property
    def is_tiny(self) -> bool:
        """Whether the steps are only tried, and nothing is measured."""
        return self.sizes is TINY

    @property
    def device(self) -> "torch.device":
        """The GPU; for a trial without one, the CPU.

        Raises:
            RuntimeError: there is no GPU to be measured.
        """
        import torch

        if not torch.cuda.is_available() and not self.is_tiny:
            raise RuntimeError("There must be a GPU; torch sees none. Try the steps on a CPU by --tiny.")
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def manifest(self) -> Path:
        """The drawn images and their captions."""
        return self.data / "pairs.tsv"

    @property
    def store(self) -> Path:
        """Store of the artifacts."""
        return self.data / "store"

    def teacher(self, name: str) -> str:
        """Name the folder of a teacher."""
        return str(self.data / "teachers" / name)

    def figures(self, step: str) -> dict[str, Any]:
        """Read the figures of another step; empty where it has not run."""
        record = read_record(self.out, step)
        return {} if record is None else record.figures

    def context(self) -> "Context":
        """Make a context for `run_stage` that makes every artifact anew."""
        from pipeline.runner import context_of
        from pipeline.store.store import Store
        from stages import STAGES

        return context_of(Store(self.store), stages=STAGES, force=True)
