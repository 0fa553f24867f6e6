"""Read images from an object store, with retries and many at a time, and identify them by their bytes."""

import hashlib
import itertools
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from pipeline.progress import progress
from pipeline.remote.cache import ObjectCache
from pipeline.remote.errors import BadKeyError, RemoteError
from pipeline.remote.object_store import ObjectInfo, Objects, in_parallel, is_url, split_url, url_of
from pipeline.stage import Input
from pipeline.store.file_digests import FileDigests
from stages.components.images.image_set import ImageSet, changed

if TYPE_CHECKING:
    from stages.components.images.lazy_image import LazyImage

MAX_BYTES = 256 << 20  # of one object; larger ones are rejected
_DIGEST_BYTES = 32
_BLOCK = 1024  # images that are hashed before their digests are remembered
_LISTED_FOR_ONE = 8  # objects that may be listed for each wanted one, before the rest are requested one by one
_LISTED_AT_LEAST = 10_000


@dataclass(frozen=True, eq=False)
class RemoteImageSet(ImageSet):
    """A set of images that are objects below a URL, or named by URLs of their own.

    Args:
        root: URL as a path; or a folder, if the paths are URLs.
        paths: Paths of the images as a manifest writes them.
        missing: Reasons of the images that are known to be missing, by number.
        sha256: Digests of the images, concatenated, if they are identified by content; else empty.
    """

    sha256: bytes = field(default=b"", kw_only=True)
    _read_ahead: dict[int, bytes] = field(default_factory=dict, init=False, repr=False)

    def open(self, number: int) -> "LazyImage":
        """Open an image.

        Raises:
            ImageRejected: it is missing, or found damaged before it is decoded.
            ProtoRKDError: the store does not answer, or refuses; or the object has changed.
        """
        from stages.components.images.decoding import ImageRejected
        from stages.components.images.lazy_image import lazy_image_of

        if number in self.missing:
            raise ImageRejected(self.missing[number])
        if not is_url(place := self._file(number)):
            return lazy_image_of(_read_unchanged(place, self._digest(number))) if self.sha256 else super().open(number)
        data: bytes | str | None = self._read_ahead.pop(number, None)
        if data is None:
            data = self._read(number)
        if isinstance(data, str):
            raise ImageRejected(data)
        return lazy_image_of(data)

    def read_ahead(self, numbers: Sequence[int]) -> None:
        """Download images that this process will open next, many at a time."""
        wanted = [number for number in dict.fromkeys(numbers) if is_url(self._file(number))]
        for number, data in zip(wanted, in_parallel(self._read, wanted), strict=True):
            if isinstance(data, bytes):
                self._read_ahead[number] = data

    def select(self, numbers: Sequence[int]) -> "RemoteImageSet":
        """Return the set of the chosen images, numbered anew in the given order."""
        return RemoteImageSet(
            root=self.root,
            paths=[self.paths[number] for number in numbers],
            missing=self._missing_of(numbers),
            sha256=b"".join(self.sha256[_place(number)] for number in numbers),
        )

    def stored_bytes(self, number: int) -> int:
        """Return the size of an image as it is stored, in bytes.

        Raises:
            OSError: it is missing.
        """
        if not is_url(self._file(number)):
            return super().stored_bytes(number)
        data = self._read(number)
        if isinstance(data, str):
            raise FileNotFoundError(data)
        return len(data)

    def digests(self, numbers: Sequence[int], file_digests: FileDigests) -> list[str | None]:
        """Hash the bytes of images by SHA-256; None for missing ones.

        Raises:
            ProtoRKDError: one is not what it was when it was hashed.
        """
        digests = digests_of([self._file(number) for number in numbers], file_digests)
        for number, digest in zip(numbers, digests, strict=True) if self.sha256 else ():
            if bytes.fromhex(digest or "") != self._digest(number):
                raise changed(self._file(number))
        return digests

    def _file(self, number: int) -> str:
        return place_of(self.root, self.paths[number])

    def _digest(self, number: int) -> bytes:
        digest = self.sha256[_place(number)]
        return digest if any(digest) else b""  # zeros mean that there was no image

    def _read(self, number: int) -> bytes | str:
        """Read an object, from the cache if possible; or return the reason why it is no image."""
        url, digest, cache = self._file(number), self._digest(number), ObjectCache.of_environment()
        name = digest.hex() or url
        kept = cache.read(name)
        if kept is not None and (not digest or hashlib.sha256(kept).digest() == digest):
            return kept
        try:
            data = read_image(url)
        except RemoteError as error:
            raise ProtoRKDError(str(error)) from error  # a type that can be pickled
        if isinstance(data, str):
            return data
        if digest and hashlib.sha256(data).digest() != digest:
            raise changed(url)
        cache.write(name, data)
        return data


def _read_unchanged(path: str, digest: bytes) -> bytes:
    """Read a file, and refuse other bytes than were hashed."""
    from stages.components.images.decoding import ImageRejected, opened  # keeps Pillow out of --help

    try:
        with opened(path) as file:
            data = file.read()
    except ImageRejected as error:
        raise changed(path) from error
    if hashlib.sha256(data).digest() != digest:
        raise changed(path)
    return data


def _place(number: int) -> slice:
    return slice(number * _DIGEST_BYTES, (number + 1) * _DIGEST_BYTES)


def place_of(root: Path, path: str) -> str:
    """Return the URL, or the file, that a path names below a root."""
    if is_url(path):
        return path
    url = url_of(root)
    if url is None or path.startswith("/"):
        return os.path.join(root, path)  # noqa: PTH118 - as in ImageSet
    return f"{url.rstrip('/')}/{path}"


def read_image(url: str) -> bytes | str:
    """Read an object, or return the reason why it is no image.

    Raises:
        RemoteError: the store does not answer, or refuses.
    """
    bucket, key = split_url(url)
    try:
        answer = Objects(bucket).read(key, limit=MAX_BYTES)
    except BadKeyError:
        return "key that cannot be asked for"
    if answer is None:
        return "missing object"
    data, facts = answer
    return data if facts.size <= MAX_BYTES else f"object of more than {MAX_BYTES >> 20} MiB"


def identify_objects(root: Path, paths: Sequence[str], *, identity: str, file_digests: FileDigests) -> Input[ImageSet]:
    """Hash the images' bytes in their order, as `identify_images` does; "content" reads each object once.

    Raises:
        RemoteError: the store does not answer, or refuses; no image counts as missing for that.
    """
    hasher = hashlib.sha256(identity.encode())
    url = url_of(root)
    location = url.rstrip("/") if url else str(root.resolve())
    if identity != "content":
        hasher.update(location.encode(errors="surrogateescape") + b"\0")
        for path in paths:
            hasher.update(path.encode() + b"\0")
        return Input(digest=hasher.hexdigest(), location=location, value=RemoteImageSet(root=root, paths=paths))
    digests = digests_of([place_of(root, path) for path in paths], file_digests)
    hasher.update("".join(digest or "missing" for digest in digests).encode())
    missing = {number: "missing object" for number, digest in enumerate(digests) if digest is None}
    sha256 = b"".join(bytes.fromhex(digest) if digest else bytes(_DIGEST_BYTES) for digest in digests)
    value = RemoteImageSet(root=root, paths=paths, missing=missing, sha256=sha256)
    return Input(digest=hasher.hexdigest(), location=location, value=value)


def digests_of(places: Sequence[str], file_digests: FileDigests) -> list[str | None]:
    """Hash files and objects by SHA-256, in order; an object with a known URL, tag and size is not read again."""
    distinct = list(dict.fromkeys(places))
    urls = [place for place in distinct if is_url(place)]
    files = [place for place in distinct if not is_url(place)]
    known: dict[str, str | None] = dict(zip(files, file_digests.digests(files), strict=True))
    there = _look_up(urls)
    facts = {url: (url, seen.tag, seen.size) for url, seen in there.items()}
    recalled = file_digests.recall(list(facts.values()))
    known |= {url: digest for url, digest in zip(facts, recalled, strict=True) if digest is not None}
    unread = [url for url in facts if url not in known]
    if unread:
        log.info(
            "reading %d images from %s to know them by their bytes; pack puts them where training reads them quickly",
            len(unread), split_url(unread[0])[0],
        )  # fmt: skip
    with progress("reading images", total=len(unread), unit="images") as advance:
        for start in range(0, len(unread), _BLOCK):
            some = unread[start : start + _BLOCK]
            hashed = dict(zip(some, in_parallel(_hash, some), strict=True))
            file_digests.remember({facts[url]: digest for url, digest in hashed.items() if digest and facts[url][1]})
            known |= hashed
            advance(len(some))
    return [known.get(place) for place in places]


def _hash(url: str) -> str | None:
    data = read_image(url)
    if isinstance(data, str):
        # An object that is too large, or gone since it was listed, has no digest: it counts as missing.
        return None
    digest = hashlib.sha256(data).hexdigest()
    ObjectCache.of_environment().write(digest, data)
    return digest


def _look_up(urls: Sequence[str]) -> dict[str, ObjectInfo]:
    """Find tag and size of each existing object: by listing, or one by one where many other objects lie between."""
    by_bucket: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for url in urls:
        bucket, key = split_url(url)
        by_bucket[bucket][key] = url
    existing: dict[str, ObjectInfo] = {}
    for bucket, wanted in by_bucket.items():
        there = _look_up_in(Objects(bucket), list(wanted))
        existing |= {wanted[key]: each for key, each in there.items()}
    return existing


def _look_up_in(objects: Objects, keys: Sequence[str]) -> dict[str, ObjectInfo]:
    existing: dict[str, ObjectInfo] = {}
    whole = False
    if len(keys) > 1 and not objects.url.startswith("http"):
        existing, whole = _list(objects, set(keys))
    unlisted = [] if whole else [key for key in keys if key not in existing]
    heads = in_parallel(lambda key: _head(objects, key), unlisted)
    return existing | {key: head for key, head in zip(unlisted, heads, strict=True) if head is not None}


def _list(objects: Objects, wanted: set[str]) -> tuple[dict[str, ObjectInfo], bool]:
    """List the wanted objects below the folder that all keys share; also return whether the listing was complete."""
    existing: dict[str, ObjectInfo] = {}
    most = _LISTED_AT_LEAST + _LISTED_FOR_ONE * len(wanted)
    try:
        for number, each in enumerate(objects.below(_shared_folder(wanted))):
            if number == most:
                return existing, False
            if each.key in wanted:
                existing[each.key] = each
    except BadKeyError:
        return existing, False
    return existing, True


def _shared_folder(keys: Iterable[str]) -> str:
    folders = [key.split("/")[:-1] for key in keys]
    pairs = zip(min(folders), max(folders), strict=False)  # sorted, the first and the last share the least
    return "/".join(one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _head(objects: Objects, key: str) -> ObjectInfo | None:
    try:
        return objects.head(key)
    except BadKeyError:
        return None
