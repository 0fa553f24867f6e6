"""Time the reading of images on one core, from files and from packs, against the PIL pipeline."""

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL.Image
import simplejpeg
import torch
from torchvision import transforms

from benchmarks.measure import Comparison, Limit, compare_time
from benchmarks.settings import Settings
from data_schemas.images.packed_images import PackedImages, write_config, write_shard
from stages.components.images.batch_resize import resize_batch
from stages.components.images.crop_boxes import draw_box
from stages.components.images.image_set import ImageSet
from stages.components.images.packed_image_set import PackedImageSet
from stages.components.images.transforms import TrainCrop
from stages.components.loading.batch import Batch, collate, collate_unsized
from stages.pack.records import RecordMaker

IMAGE_SIZE = 224
MIN_SCALE = 0.9
BARS = {"files": 2.3, "jpeg": 3.5, "raw": 15.0}

_SHORT_SIDE, _QUALITY = 256, 90
_NUM_MADE, _MADE_SIZE = 60, (390, 440)


def compare(settings: Settings) -> list[Comparison]:
    """Compare on photographs of about 440 x 390 pixels, or on as many made-up ones."""
    with tempfile.TemporaryDirectory() as scratch, _one_thread():
        folder = settings.data / "photos_fullsize" / "images" if settings.data else _make_photos(Path(scratch) / "made")
        files = ImageSet(root=folder, paths=sorted(path.name for path in folder.iterdir()))
        packs = {name: _pack(files, Path(scratch) / name, format_=name) for name in ("jpeg", "raw")}
        rows = {
            "files": ("from files", files, _decoding(files)),
            "jpeg": ("from a JPEG pack", packs["jpeg"], _decoding(packs["jpeg"])),
            "raw": ("from a raw pack", packs["raw"], _copying(packs["raw"])),
        }
        comparisons = [
            _compare(subject, files=files, images=images, bar=BARS[name], limit=limit, num_pairs=settings.num_pairs)
            for name, (subject, images, limit) in rows.items()
        ]
        return comparisons + _compare_left_to_device(packs["raw"], num_pairs=settings.num_pairs)


def _compare(
    subject: str, *, files: ImageSet, images: ImageSet, bar: float, limit: Limit, num_pairs: int
) -> Comparison:
    crop, baseline = TrainCrop(image_size=IMAGE_SIZE, min_scale=MIN_SCALE), _pil_pipeline(files)

    def ours() -> None:
        for number in range(len(images.paths)):
            crop(images.open(number), seed=number)

    ours()
    baseline()
    return compare_time(
        f"{len(files.paths)} crops of {IMAGE_SIZE} px {subject}",
        baseline_name="the PIL pipeline from files",
        baseline=baseline,
        ours=ours,
        num_pairs=num_pairs,
        bar=bar,
        limit=limit,
    )


def _compare_left_to_device(images: PackedImageSet, *, num_pairs: int) -> list[Comparison]:
    """Compare a reader's work for images that a GPU resizes, and, where there is one, the whole way to its crops."""
    crop, numbers = TrainCrop(image_size=IMAGE_SIZE, min_scale=MIN_SCALE), range(len(images.paths))

    def resized_here() -> Batch:
        return collate([(number, crop(images.open(number), seed=number)) for number in numbers])

    def cut_here() -> Batch:
        return collate_unsized([(number, crop.unsized(images.open(number), seed=number)) for number in numbers])

    def resized_there() -> None:
        batch = cut_here().pin_memory()
        pixels = batch.images.to("cuda", non_blocking=True)
        resize_batch(pixels, batch.sizes, size=IMAGE_SIZE, interpolation="bicubic")
        torch.cuda.synchronize()

    def sent() -> None:
        resized_here().pin_memory().images.to("cuda", non_blocking=True)
        torch.cuda.synchronize()

    ways: list[tuple[str, str, Callable[[], object], Callable[[], object]]] = [
        ("cut for a GPU to resize", "crops resized by the reader", resized_here, cut_here)
    ]
    if torch.cuda.is_available():
        ways.append(("cut, sent and resized by a GPU", "crops resized by the reader, sent", sent, resized_there))
    crops, cuts = ([each().images.nbytes / 1e6] for each in (resized_here, cut_here))
    sizes = f"{len(numbers)} images of a raw pack, handed over for a GPU to resize"
    comparisons = [Comparison(sizes, "MB", "their crops", baseline=crops, ours=cuts)]
    for subject, baseline_name, baseline, ours in ways:
        baseline()
        ours()
        name = f"{len(numbers)} images of a raw pack, {subject}"
        comparisons.append(
            compare_time(name, baseline_name=baseline_name, baseline=baseline, ours=ours, num_pairs=num_pairs)
        )
    return comparisons


def _pil_pipeline(files: ImageSet) -> Callable[[], None]:
    """Build the usual pipeline of training scripts: Pillow's decoder, and torchvision's v1 transforms."""
    pipeline = transforms.Compose(
        [
            transforms.RandomResizedCrop(
                IMAGE_SIZE, (MIN_SCALE, 1.0), interpolation=transforms.InterpolationMode.BICUBIC
            ),
            transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        ]
    )

    def run() -> None:
        for path in files.paths:
            with PIL.Image.open(files.root / path) as image:
                pipeline(image.convert("RGB"))

    return run


def _decoding(images: ImageSet) -> Limit:
    data = _jpeg_bytes(images)

    def run() -> None:
        for each in data:
            simplejpeg.decode_jpeg(each)

    return Limit("decoding alone", run)


def _jpeg_bytes(images: ImageSet) -> list[bytes]:
    if isinstance(images, PackedImageSet):
        return [images.pack.read(int(row)).tobytes() for row in images.rows]
    return [(images.root / path).read_bytes() for path in images.paths]


def _copying(images: PackedImageSet) -> Limit:
    opened = [images.open(number) for number in range(len(images.paths))]
    boxes = [draw_box(image.size, min_scale=MIN_SCALE, seed=seed) for seed, image in enumerate(opened)]
    crops = [box.cut(image.pixels(), image.size) for box, image in zip(boxes, opened, strict=True)]

    def run() -> None:
        for crop in crops:
            crop.copy()

    return Limit("copying the crop's bytes", run)


def _pack(files: ImageSet, root: Path, *, format_: str) -> PackedImageSet:
    make = RecordMaker(files, short_side=_SHORT_SIDE, format_=format_, quality=_QUALITY)
    write_config(root, format_=format_)
    write_shard(root, 0, files.paths, (make(number) for number in range(len(files.paths))))
    return PackedImageSet.of(PackedImages(root), np.arange(len(files.paths), dtype=np.int32), files.paths)


def _make_photos(root: Path) -> Path:
    """Draw noise with as much power in each octave, as photographs have, in three colours that go together."""
    root.mkdir()
    random = np.random.default_rng(0)
    height, width = _MADE_SIZE
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    radius[0, 0] = np.inf
    for number in range(_NUM_MADE):
        waves = np.fft.rfft2(random.normal(size=(3, height, width))) / radius
        grey, *colours = np.fft.irfft2(waves, s=_MADE_SIZE)
        bands = np.stack([grey + 0.3 * colour for colour in (colours[0], colours[1], -colours[0])], axis=2)
        pixels = np.clip(128 + 50 * bands / bands.std(), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
        (root / f"{number:03}.jpg").write_bytes(buffer.getvalue())
    return root


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
