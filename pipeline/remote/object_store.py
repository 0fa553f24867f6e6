"""Objects below a URL, such as ``s3://bucket/prefix``: read, write and list, with retries; failures say what to do."""

import contextlib
import functools
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from data_schemas.errors import ProtoRKDError
from data_schemas.files import OTHER_BYTES, FileEntry
from pipeline.log import log
from pipeline.remote.errors import BadKeyError, ObjectDamagedError, UnmodifiedError, brief, may_pass, unreachable

if TYPE_CHECKING:
    from obstore.store import ObjectStore

NUM_REQUESTS = 16  # concurrent requests, which wait for the network, not for a core
TIMEOUT_S = 120.0  # for one request, which moves at most a part; AWS_TIMEOUT, such as 300s, overrides it
MAX_RETRIES = 10  # of one request, by the library: after temporary refusals and lost connections
AT_ONCE_S = 3.0  # for a request that is not worth a wait
_ATTEMPTS = 3  # for a whole object: after bodies that end early, and writes that were not answered
_PART = 8 << 20
_MOST_PARTS = 9_000  # parts of one object; S3 takes 10,000
_LISTED = 1000  # objects that one request lists or deletes
_URL = re.compile(r"[a-z][a-z0-9+.-]+://")

_COLLAPSED = re.compile(r"([a-z][a-z0-9+.-]+):/([^/].*)")

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ObjectInfo:
    """An object in a listing.

    Args:
        key: Key below the URL that was listed.
        size: Size in bytes.
        tag: Tag that changes with the object's bytes.
        version: Version of the object, where the store counts them.
        modified: Time of the last write.
    """

    key: str
    size: int
    tag: str | None
    version: str | None
    modified: datetime


def is_url(place: str) -> bool:
    """Tell whether a place is named by a URL; anything else is a path."""
    return _URL.match(place) is not None


def url_of(place: Path | str) -> str | None:
    """Return the URL that names a place, or None for a path; a slash that Path removed is restored."""
    text = str(place)
    if is_url(text):
        return text
    return f"{found[1]}://{found[2]}" if (found := _COLLAPSED.match(text)) else None


def split_url(url: str) -> tuple[str, str]:
    """Split an object's URL into the URL of its bucket, container or host, and its key."""
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key


class Objects:
    """The objects below one URL; keys are relative to it. It pickles as its URL: each process has its own client.

    Args:
        url: ``s3://bucket/prefix``, or any other that obstore opens; credentials come only from the environment.

    Raises:
        ProtoRKDError: the URL holds credentials or a query, or its kind is not known, or obstore is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = _checked(url)

    def place(self, key: str) -> str:
        """Return the URL of an object, for people."""
        return f"{self.url}/{key}"

    def read(self, key: str, *, tag: str | None = None, limit: int | None = None) -> tuple[bytes, ObjectInfo] | None:
        """Read a small object whole; None where there is none.

        Args:
            key: Key of the object.
            tag: Tag that the caller has seen: an object that still has it is not read.
            limit: Number of bytes after which reading stops, for objects larger than the caller wants.

        Raises:
            UnmodifiedError: it has that tag.
            RemoteError: the store does not answer, or refuses.
        """
        import obstore

        def get() -> tuple[bytes, ObjectInfo]:
            result = obstore.get(self._client, key, options={"if_none_match": tag} if tag else None)
            found = _found(result.meta, key)
            if limit is not None and found.size > limit:
                return bytes(obstore.get_range(self._client, key, start=0, end=limit)), found
            return bytes(result.bytes()), found

        try:
            return self._try(get, key)
        except FileNotFoundError:
            return None
        except obstore.exceptions.NotModifiedError:
            raise UnmodifiedError from None

    def head(self, key: str) -> ObjectInfo | None:
        """Look at an object without reading it; None where there is none."""
        import obstore

        try:
            return self._try(lambda: _found(obstore.head(self._client, key), key), key)
        except FileNotFoundError:
            return None

    def blocks(self, key: str, size: int) -> Iterator[bytes]:
        """Read a large object from beginning to end, a few parts ahead.

        Raises:
            FileNotFoundError: it is not there.
            RemoteError: the store does not answer, or refuses.
        """
        import obstore

        def part(start: int) -> bytes:
            end = min(start + _PART, size)
            return self._try(lambda: bytes(obstore.get_range(self._client, key, start=start, end=end)), key)

        if size <= _PART:
            found = self.read(key)
            if found is None:
                raise FileNotFoundError(self.place(key))
            yield found[0]
            return
        with ThreadPoolExecutor(2) as pool:
            yield from _ahead(pool, part, range(0, size, _PART))

    def problem(self, key: str, entry: FileEntry) -> str | None:
        """Say what is wrong with the object that should hold a file, or None; reads it whole."""
        return self._copy(key, entry, lambda _block: None)

    def download(self, key: str, entry: FileEntry, root: Path) -> None:
        """Write an object into the file that ``entry`` names below ``root``, once all its bytes are verified.

        Raises:
            ObjectDamagedError: it is missing, or has other bytes; no file is written then.
        """
        target = root / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        with partial.open("wb") as file:
            problem = self._copy(key, entry, file.write)
        if problem:
            partial.unlink()
            raise ObjectDamagedError(
                f"{self.place(key)} must be as it was written; it {'is missing' if problem == 'missing' else problem}. "
                "Run verify --repair on that store: it brings it back from a copy that is whole, or makes it anew."
            )
        partial.replace(target)

    def upload(self, key: str, entry: FileEntry, root: Path) -> None:
        """Upload a file that ``entry`` names below ``root``; an object with other bytes is never created.

        Raises:
            ProtoRKDError: the file is not what the entry says.
        """
        import obstore

        def put() -> None:
            path, hasher = root / entry.path, hashlib.sha256()
            if entry.size <= _PART:
                data = path.read_bytes()
                hasher.update(data)
                _require(hasher.hexdigest() == entry.sha256, path)
                obstore.put(self._client, key, data, mode="overwrite", use_multipart=False)
                return

            def read() -> Iterator[bytes]:
                with path.open("rb") as file:
                    while block := file.read(_PART):
                        hasher.update(block)
                        if file.tell() == entry.size:
                            _require(hasher.hexdigest() == entry.sha256, path)
                        yield block

            part = max(_PART, -(-entry.size // _MOST_PARTS))
            obstore.put(self._client, key, read(), chunk_size=part, max_concurrency=2)

        self._try(put, key)

    def copy(self, source: str, target: str) -> None:
        """Copy an object within the store, whose bytes do not come here; one with the target's key is overwritten.

        Raises:
            RemoteError: it is not there, or the store does not answer, or refuses.
        """
        import obstore

        try:
            self._try(lambda: obstore.copy(self._client, source, target), source)
        except FileNotFoundError as error:
            raise ObjectDamagedError(
                f"{self.place(source)} must be there; it is not. Run the same command again."
            ) from error

    def create(self, key: str, data: bytes) -> ObjectInfo | None:
        """Write a small object that must not exist yet; None if it does.

        A request whose answer was lost is sent again: that the object is there may be this caller's own doing.
        """
        import obstore

        try:
            return self._try(lambda: self._put(key, data, "create"), key)
        except obstore.exceptions.AlreadyExistsError:
            return None

    def replace(self, key: str, data: bytes, *, seen: ObjectInfo) -> ObjectInfo | None:
        """Write a small object in place of the one that was seen; None if another was written in between.

        Stores that cannot tell overwrite any object.
        """
        import obstore

        try:
            facts = {"e_tag": seen.tag, "version": seen.version}
            mode = {name: value for name, value in facts.items() if value is not None}
            return self._try(lambda: self._put(key, data, mode), key)
        except obstore.exceptions.PreconditionError:
            return None
        except (NotImplementedError, obstore.exceptions.NotSupportedError):
            return self.write(key, data)

    def write(self, key: str, data: bytes) -> ObjectInfo:
        """Write a small object, even over another."""
        return self._try(lambda: self._put(key, data, "overwrite"), key)

    def write_at_once(self, key: str, data: bytes) -> ObjectInfo:
        """Write a small object, even over another, by one request that waits seconds: for what is worth no more.

        Raises:
            RemoteError: the store does not answer, or refuses.
        """
        import obstore

        try:
            return self._put(key, data, "overwrite", client=_client(self.url, os.getpid(), patient=False))
        except (obstore.exceptions.BaseError, OSError) as error:
            raise unreachable(self.place(key), error) from error

    def remove(self, keys: Sequence[str]) -> None:
        """Delete objects; one that is not there is not an error."""
        import obstore

        for start in range(0, len(keys), _LISTED):
            some = list(keys[start : start + _LISTED])
            try:
                self._try(lambda some=some: obstore.delete(self._client, some), some[0])  # type: ignore[misc]
            except FileNotFoundError:  # only in folders (file://), perhaps before other keys were deleted
                for key in some:
                    with contextlib.suppress(FileNotFoundError):
                        obstore.delete(self._client, key)

    def below(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object below a prefix, which is a folder."""
        import obstore

        listing = self._try(lambda: iter(obstore.list(self._client, prefix or None, chunk_size=_LISTED)), prefix)
        while some := self._try(lambda: next(listing, None), prefix):
            yield from (_found(each, each["path"]) for each in some)

    def list_folder(self, folder: str = "") -> tuple[list[str], list[ObjectInfo]]:
        """List the folders' names and the objects directly in a folder: one request for each thousand."""
        import obstore

        result = self._try(lambda: obstore.list_with_delimiter(self._client, folder or None), folder)
        names = [prefix.rpartition("/")[2] for prefix in result["common_prefixes"]]
        return names, [_found(each, each["path"]) for each in result["objects"]]

    @property
    def _client(self) -> "ObjectStore":
        return _client(self.url, os.getpid())

    def _put(self, key: str, data: bytes, mode: Any, *, client: "ObjectStore | None" = None) -> ObjectInfo:
        import obstore

        result = obstore.put(client or self._client, key, data, mode=mode, use_multipart=False)
        return ObjectInfo(key, len(data), result["e_tag"], result["version"], datetime.now().astimezone())

    def _copy(self, key: str, entry: FileEntry, write: Callable[[bytes], Any]) -> str | None:
        hasher, size = hashlib.sha256(), 0
        try:
            found = self.head(key) if entry.size > _PART else None
            if found is not None and found.size != entry.size:
                return f"has {found.size} bytes instead of {entry.size}"
            for block in self.blocks(key, entry.size):
                hasher.update(block)
                size += len(block)
                write(block)
        except FileNotFoundError:
            return "missing"
        if size != entry.size:
            return f"has {size} bytes instead of {entry.size}"
        return None if hasher.hexdigest() == entry.sha256 else OTHER_BYTES

    def _try(self, work: Callable[[], T], key: str) -> T:
        """Do something to an object; again if its body ended early or a write was not answered."""
        from obstore import exceptions

        for attempt in range(_ATTEMPTS):
            try:
                return work()
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise unreachable(self.place(key), error) from error
                raise
            except (
                exceptions.AlreadyExistsError,
                exceptions.PreconditionError,
                exceptions.NotModifiedError,
                exceptions.NotSupportedError,
                NotImplementedError,
            ):
                raise
            except ValueError as error:
                raise BadKeyError(
                    f"{self.place(key)} must have no empty part, no '..' and no control character in its key; it does. "
                    "Rename the object."
                ) from error
            except (exceptions.BaseError, OSError) as error:
                passing = isinstance(error, exceptions.GenericError | OSError) and may_pass(str(error))
                if not passing or attempt + 1 == _ATTEMPTS:
                    raise unreachable(self.place(key), error) from error
                log.info("%s: %s; trying again", self.place(key), brief(error))
                time.sleep(0.2 * 4**attempt)
        raise AssertionError("the last attempt returns or raises")


def in_parallel(work: Callable[[T], R], things: Sequence[T]) -> list[R]:
    """Do something to each of many objects, many at a time; the first error ends it."""
    if len(things) == 1:
        return [work(things[0])]
    with ThreadPoolExecutor(NUM_REQUESTS) as pool:
        futures = [pool.submit(work, thing) for thing in things]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _ahead(pool: ThreadPoolExecutor, work: Callable[[T], R], things: Sequence[T], *, num_ahead: int = 3) -> Iterator[R]:
    waiting: list[Future[R]] = []
    for thing in things:
        waiting.append(pool.submit(work, thing))
        if len(waiting) > num_ahead:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


@functools.lru_cache(maxsize=32)
def _client(url: str, _pid: int, *, patient: bool = True) -> "ObjectStore":
    """Connect; a forked process gets a client of its own. One that is not patient asks once."""
    from obstore.store import LocalStore, from_url

    if url.startswith("file://"):
        return LocalStore(Path(url.removeprefix("file://")), mkdir=True)
    allow_http = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes")
    timeout = os.environ.get("AWS_TIMEOUT") or timedelta(seconds=TIMEOUT_S)
    num_retries = MAX_RETRIES
    if not patient:
        timeout, num_retries = timedelta(seconds=AT_ONCE_S), 0
    try:
        return from_url(
            url,
            client_options={"timeout": timeout, "allow_http": allow_http},
            retry_config={"max_retries": num_retries, "retry_timeout": timedelta(minutes=3)},
        )
    except Exception as error:
        raise ProtoRKDError(
            f"{url} must be a place that obstore opens; got {brief(error)}. Such as s3://bucket/prefix, gs://, az://."
        ) from error


def _checked(url: str) -> str:
    try:
        import obstore  # noqa: F401 - an extra: its absence is reported before any request
    except ImportError as error:
        raise ProtoRKDError(f"{url} must be read with obstore. pip install 'protorkd[s3]'.") from error
    authority = url.partition("://")[2].partition("/")[0]
    if "@" in authority or "?" in url or "#" in url:
        shown = re.sub(r"//[^/@]*@", "//", re.split("[?#]", url)[0])
        raise ProtoRKDError(
            f"A URL must name a place and nothing else; got {shown} with credentials, a query or a fragment. "
            "Give credentials in the environment, such as AWS_ACCESS_KEY_ID."
        )
    return url.rstrip("/")


def _found(meta: Any, key: str) -> ObjectInfo:
    return ObjectInfo(key, meta["size"], meta["e_tag"], meta["version"], meta["last_modified"])


def _require(holds: bool, path: Path) -> None:
    if not holds:
        raise ProtoRKDError(
            f"{path} must be as it was written; it {OTHER_BYTES}. Run verify --repair, which makes it anew."
        )
