"""Unpack images from a set's own file format, once, into ordinary image files.

All later steps, from hashing to thumbnails, work on image files. So these images become files too, rather than a
second kind of image that every step would have to support.
"""

from pathlib import Path

import filelock
import numpy as np

from data_schemas.errors import ProtoRKDError
from data_schemas.files import disk_error, fsync_all, read_json, write_json, write_unsynced
from pipeline.fingerprint import hash_json
from pipeline.log import log
from pipeline.progress import progress
from pipeline.store.file_digests import FileDigests
from stages.evaluate.sets.datasets.description import PackedImages, labelled_folder
from stages.evaluate.sets.image_folder import ImageFolder

_FORM = 1
_LABELS_NAME = "labels.json"


def unpack(split: ImageFolder | PackedImages, cache: Path, *, file_digests: FileDigests) -> ImageFolder:
    """Write packed images into a folder of the cache, unless they are there; an image folder stays as it is.

    The folder is named after the digest of the packed files, and its list of labels is written last: a folder without
    that list is written again. Images are written as PPM, whose bytes, unlike PNG's, do not depend on the version of a
    library, so that the same set has the same identity everywhere.

    Args:
        split: Images of one split of a set.
        cache: Folder that holds unpacked images.
        file_digests: Remembered digests of the packed files.

    Raises:
        ProtoRKDError: a file is damaged or has labels without a class, or the cache cannot be written.
    """
    if isinstance(split, ImageFolder):
        return split
    digest = hash_json([_FORM, split.name, [file_digests.digest(path) for path in split.files]])
    folder = cache / f"{split.name}-{digest[:16]}"
    record = folder / _LABELS_NAME
    if not record.is_file():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(cache / f".{folder.name}.lock")
            with lock:
                if not record.is_file():
                    _write(split, folder)
        except OSError as error:
            raise disk_error(folder, error) from error
    images = ((_path(index), label) for index, label in enumerate(read_json(record)))
    return labelled_folder(split.name, folder, split.classes, images)


def _write(split: PackedImages, folder: Path) -> None:
    images, labels = split.read(split.files)
    if len(labels) == 0 or not 0 <= labels.min() <= labels.max() < len(split.classes):
        raise ProtoRKDError(
            f"{split.files[-1]} must have labels of {len(split.classes)} classes; got {np.unique(labels).tolist()}. "
            "Download or extract the set again."
        )
    log.info("evaluate: unpacking %d images of %s into %s", len(labels), split.name, folder)
    height, width = images.shape[1:3]
    header = b"P6 %d %d 255\n" % (width, height)
    with progress(f"unpacking {split.name}", total=len(labels), unit="images") as advance:
        for index, image in enumerate(images):
            write_unsynced(folder / _path(index), header + image.tobytes())
            advance(1)
    paths = [folder / _path(index) for index in range(len(labels))]
    fsync_all([*paths, *{path.parent for path in paths}])
    write_json(folder / _LABELS_NAME, labels.tolist())


def _path(index: int) -> str:
    return f"{index // 1000:03d}/{index:06d}.ppm"
