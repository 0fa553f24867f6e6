"""Serve the page of a search, on this machine alone, and only to those who know its address."""

import io
import json
import secrets
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from pipeline.terminal import echo
from stages.components.images.decoding import ImageRejected, decode_image
from stages.components.images.lazy_image import DecodedImage, to_image
from stages.components.report.even_sample import choose_queries
from stages.components.report.thumbnails import small_jpeg, stand_in_jpeg
from stages.search.page import NUM_START, policy_of, render

if TYPE_CHECKING:
    from stages.search.engine import Search, SearchResult

HOST = "127.0.0.1"
MAX_UPLOAD_BYTES = 64 << 20
_MAX_TEXT = 500
_SMALL, _WHOLE = 256, 1600  # greatest length of an image's longer side, in pixels
_TIMEOUT_S = 30
_CACHED_IMAGES = 2048


class SearchServer(ThreadingHTTPServer):
    """A server of one set's page, queries and images.

    Every address begins with a random key for each server: neither another user of this machine nor another page in the
    same browser can guess it. The server listens only on the loopback interface and answers only to its own host names,
    so that a foreign name that points at this machine (DNS rebinding) does not reach it.

    Args:
        opened: Search of the set.
        asked: Queries that the page offers.
        top: Number of results of a query.
        port: Port to listen on; 0 takes any free one.

    Raises:
        ProtoRKDError: the port is taken, or the user may not open it.
    """

    daemon_threads = True

    def __init__(self, opened: "Search", asked: "Sequence[SearchResult]", *, top: int, port: int) -> None:
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ProtoRKDError(f"--port must be free and open to you; got {port}: {error}. Leave it out.") from error
        self.key = secrets.token_urlsafe(16)
        self.opened, self.top = opened, max(top, NUM_START)
        rows = opened.searched.rows
        self.rows = frozenset(rows)
        start = [
            {"row": row, **opened.searched.describe(row)}
            for row in (rows[at] for at in choose_queries(NUM_START, len(rows)))
        ]
        queries = [{"name": each.name, "thumb": None} for each in asked if each.kind == "text"]
        data = {"live": True, "noun": opened.searched.noun, "start": start, "queries": queries, "captions": []}
        self.page = render(opened, data, num_shown=len(rows)).encode()
        self.policy = policy_of(live=True)
        self.small_image = lru_cache(_CACHED_IMAGES)(lambda row: self.image(row, size=_SMALL))

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self.server_port}/{self.key}/"

    def nearest(self, row: int) -> dict[str, Any]:
        """Find what is nearest to a row of the set, without the row itself."""
        hits = self.opened.nearest(row, top=self.top)
        return {"row": row, **self.opened.searched.describe(row), "hits": [asdict(hit) for hit in hits]}

    def text(self, text: str) -> dict[str, Any]:
        """Find what is nearest to words."""
        return _answer(self.opened.ask_text(text, top=self.top))

    def upload(self, data: bytes) -> dict[str, Any]:
        """Find what is nearest to an uploaded image file, which is not kept."""
        image = DecodedImage(np.asarray(decode_image(io.BytesIO(data))))
        return _answer(self.opened.ask_image(image, name="The image", top=self.top))

    def image(self, row: int, *, size: int) -> bytes:
        """Return an image of the set as a JPEG, or a grey square if it can no longer be read."""
        try:
            return small_jpeg(to_image(self.opened.searched.image(row).open(0)), size=size)
        except ImageRejected:
            return stand_in_jpeg()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore browsers that hang up; show other errors, which are this program's fault."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """The handler of one request."""

    server: SearchServer
    timeout = _TIMEOUT_S
    server_version = "ProtoRKD"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with the page, results or an image."""
        self._respond(self._get)

    def do_POST(self) -> None:
        """Answer an uploaded image with results."""
        self._respond(self._post)

    def _respond(self, answer: Any) -> None:
        try:
            if not self._is_for_us():
                raise _RefusedError(HTTPStatus.NOT_FOUND, "There is nothing here.")
            answer(*self._parts())
        except _RefusedError as error:
            self._send_json({"error": str(error)}, error.status)
        except ImageRejected as error:
            self._send_json({"error": f"That is no image that can be read: {error.reason}."}, HTTPStatus.BAD_REQUEST)
        except ProtoRKDError as error:
            self._send_json({"error": str(error)}, HTTPStatus.BAD_REQUEST)

    def _is_for_us(self) -> bool:
        """Return whether the request has this server's host, key and, if any, origin."""
        port = self.server.server_port
        hosts = {f"{HOST}:{port}", f"localhost:{port}"}
        origin = self.headers.get("Origin")
        if self.headers.get("Host") not in hosts or (origin and origin not in {f"http://{host}" for host in hosts}):
            return False
        _, key, *_ = [*urlsplit(self.path).path.split("/"), ""]
        return secrets.compare_digest(key.encode(), self.server.key.encode())

    def _parts(self) -> tuple[list[str], dict[str, list[str]]]:
        split = urlsplit(self.path)
        return split.path.split("/")[2:], parse_qs(split.query)

    def _get(self, parts: list[str], query: dict[str, list[str]]) -> None:
        match parts:
            case [""]:
                self._send(self.server.page, "text/html; charset=utf-8")
            case ["search"]:
                text = query.get("text", [""])[0].strip()
                if not 0 < len(text) <= _MAX_TEXT:
                    raise _RefusedError(
                        HTTPStatus.BAD_REQUEST, f"Say what to look for, in {_MAX_TEXT} characters at most."
                    )
                self._send_json(self.server.text(text))
            case ["nearest", row]:
                self._send_json(self.server.nearest(self._row(row)))
            case ["picture", row, *rest] if rest in ([], ["whole"]):
                number = self._row(row)
                if not self.server.opened.searched.is_image(number):
                    raise _RefusedError(HTTPStatus.NOT_FOUND, "There is nothing here.")
                image = self.server.image(number, size=_WHOLE) if rest else self.server.small_image(number)
                self._send(image, "image/jpeg", cache=True)
            case _:
                raise _RefusedError(HTTPStatus.NOT_FOUND, "There is nothing here.")

    def _post(self, parts: list[str], _query: dict[str, list[str]]) -> None:
        if parts != ["search"]:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "There is nothing here.")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "Say how long the image is.")
        if int(length) > MAX_UPLOAD_BYTES:
            self.close_connection = True
            limit = f"{MAX_UPLOAD_BYTES >> 20} MB"
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"An image may have {limit} at most.")
        self._send_json(self.server.upload(self.rfile.read(int(length))))

    def _row(self, text: str) -> int:
        """Parse a row of the set; other values are refused, so that no path is ever made from a request."""
        row = int(text) if text.isdecimal() and len(text) < 16 else -1
        if row not in self.server.rows:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "The set has no such row.")
        return row

    def _send_json(self, value: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(value, ensure_ascii=False).encode(), "application/json", status)

    def _send(self, body: bytes, content_type: str, status: HTTPStatus = HTTPStatus.OK, *, cache: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", f"{self.server.policy}; frame-ancestors 'none'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cache-Control", "private, max-age=3600" if cache else "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the library calls it
        """Log nothing, because requests hold the key."""


class _RefusedError(Exception):
    """A request is refused, with a reason."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


def serve(opened: "Search", asked: "Sequence[SearchResult]", *, top: int, port: int) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        ProtoRKDError: the port is taken.
    """
    with SearchServer(opened, asked, top=top, port=port) as server:
        try:
            echo(f"open {server.url}")
            log.info("search: answers on this machine alone, and under this address; Ctrl-C ends it")
            server.serve_forever()
        except KeyboardInterrupt:
            log.info("search: ended")


def _answer(asked: "SearchResult") -> dict[str, Any]:
    return {"name": asked.name, "seconds": asked.seconds, "hits": [asdict(hit) for hit in asked.hits]}
