"""An object store on loopback that speaks S3: moto, in a thread, behind a gate that counts, fails, stalls and lies."""

import io
import logging
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

Reply = Iterable[bytes]
WAIT_S = 30


@dataclass
class Fault:
    """A fault of the next requests of a kind.

    Args:
        method: Method of the requests.
        part: Part of their path.
        act: Takes the request and a function that gives the store's answer; answers in its place.
        times: Number of requests that are still to fail.
        after: Number of requests that go through before.
    """

    method: str
    part: str
    act: Callable[[dict[str, Any], Callable[..., Any], Callable[[], Reply]], Reply]
    times: int
    after: int = 0


@dataclass
class ObjectServer:
    """The server. Buckets are made by `bucket`; each test has its own."""

    requests: list[tuple[str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    lies: bool = False
    port: int = 0

    def __post_init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._num_buckets = 0
        self._deletions: list[str] = []
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self._server.daemon_threads = True
        self.port = self._server.port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that a client needs."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
            "AWS_SECRET_ACCESS_KEY": "a-secret-that-nothing-may-show",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def bucket(self) -> str:
        """Make an empty bucket, and forget faults and requests."""
        self.faults.clear()
        self.lies = False
        self._num_buckets += 1
        name = f"bucket-{self._num_buckets}"
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT")):
            pass
        self.requests.clear()
        self._deletions.clear()
        return name

    def count(self, method: str = "", part: str = "") -> int:
        """Count the requests of a kind."""
        return sum(method in each[0] and part in each[1] for each in self.requests)

    @property
    def removed(self) -> list[str]:
        """Keys that were deleted, probes apart, in their order."""
        return [key for body in self._deletions for key in re.findall("<Key>(.*?)</Key>", body) if ".probe-" not in key]

    def answer_with(self, status: str, *, method: str, part: str = "", times: int = 1, body: bytes = b"") -> None:
        """Refuse the next requests of a kind."""

        def act(environ: dict[str, Any], start: Callable[..., Any], answer: Callable[[], Reply]) -> Reply:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start(status, [("Content-Length", str(len(body)))])
            return [body]

        self.faults.append(Fault(method, part, act, times))

    def cut(self, *, method: str = "GET", part: str = "", times: int = 1) -> None:
        """Answer the next requests of a kind with half a body."""

        def act(environ: dict[str, Any], start: Callable[..., Any], answer: Callable[[], Reply]) -> Reply:
            body = b"".join(answer())
            return [body[: len(body) // 2]]

        self.faults.append(Fault(method, part, act, times))

    def lose_answer(self, *, method: str, part: str = "", times: int = 1) -> None:
        """Do what the next requests of a kind ask for, and break off before it is said."""

        def act(environ: dict[str, Any], start: Callable[..., Any], answer: Callable[[], Reply]) -> Reply:
            b"".join(answer())
            return _hang_up(environ)

        self.faults.append(Fault(method, part, act, times))

    def stall(self, seconds: float, *, method: str, part: str = "", times: int = 1) -> None:
        """Let the next requests of a kind wait."""

        def act(environ: dict[str, Any], start: Callable[..., Any], answer: Callable[[], Reply]) -> Reply:
            time.sleep(seconds)
            return answer()

        self.faults.append(Fault(method, part, act, times))

    def meet(self, *, method: str, part: str, after: int, done: bool) -> tuple[threading.Event, threading.Event]:
        """Halt one request, before it is done or after; return what is set when it has come, and what lets it go."""
        came, may_go = threading.Event(), threading.Event()

        def act(environ: dict[str, Any], start: Callable[..., Any], answer: Callable[[], Reply]) -> Reply:
            if done:
                b"".join(answer())
            came.set()
            may_go.wait(WAIT_S)
            return _hang_up(environ)

        self.faults.append(Fault(method, part, act, 1, after))
        return came, may_go

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Reply:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if self.lies:
            environ.pop("HTTP_IF_NONE_MATCH", None)
            environ.pop("HTTP_IF_MATCH", None)
        with self._lock:
            self.requests.append((method, f"{path}?{environ['QUERY_STRING']}"))
            fault = self._fault(method, path)
        if environ["QUERY_STRING"] == "delete":
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            environ["wsgi.input"] = io.BytesIO(body)
            self._deletions.append(body.decode())

        def answer() -> Reply:
            reply: Reply = self._app(environ, start)
            return reply

        return fault.act(environ, start, answer) if fault else answer()

    def _fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method == method and fault.part in path:
                if fault.after:
                    fault.after -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _hang_up(environ: dict[str, Any]) -> Reply:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError


def serve() -> Iterator[ObjectServer]:
    server = ObjectServer()
    yield server
    server.stop()
