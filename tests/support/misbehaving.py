"""A web server that misbehaves as real ones do: the path's first part names the function that answers."""

import asyncio
import contextlib
import gzip
import io
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

from PIL import Image

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "::1")
LARGE = 200_000  # bytes of a body that is too large; the tests' limit is half of it


@dataclass
class Request:
    """A client's request.

    Args:
        path: Path with its query.
        host: Host in the request's header.
        headers: Headers by name in lower case.
        number: How many times the path has been asked for, this time included.
        write: Sends bytes to the client.
        server: Server that was asked.
    """

    path: str
    headers: dict[str, str]
    number: int
    write: Callable[[bytes], Awaitable[None]]
    server: "Server"

    @property
    def argument(self) -> str:
        return self.path.lstrip("/").partition("/")[2]


@dataclass
class Server:
    """The running server, and a record of its requests.

    Args:
        port: Port that it listens on, on each of `HOSTS`.
        root: Folder of the files that ``/file/NAME`` serves.
        asked: How often each path was asked for.
        requests: All requests, in order.
        most: Most requests at a time, by the address that was connected to, and of all addresses under "".
    """

    root: Path
    port: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    requests: list[Request] = field(default_factory=list)
    now: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with (
            contextlib.closing(writer),
            contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError),
        ):
            while await self._answer(reader, writer):
                pass

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        path = head[0].split(" ")[1]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        self.asked[path] += 1

        async def write(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        request = Request(path, headers, self.asked[path], write, self)
        self.requests.append(request)
        place = writer.get_extra_info("sockname")[0]
        for name in (place, ""):
            self.now[name] += 1
            self.most[name] = max(self.most[name], self.now[name])
        try:
            way = path.lstrip("/").partition("/")[0].partition("?")[0]
            return bool(await WAYS.get(way, not_found)(request))
        finally:
            self.now.subtract([place, ""])


@contextlib.contextmanager
def serving(root: Path) -> Iterator[Server]:
    """Serve from a thread of its own."""
    server = Server(root)
    loop = asyncio.new_event_loop()

    async def start() -> list[asyncio.Server]:
        first = await asyncio.start_server(server.serve, HOSTS[0], 0, backlog=4096)
        server.port = first.sockets[0].getsockname()[1]
        return [first, *[await asyncio.start_server(server.serve, host, server.port) for host in HOSTS[1:]]]

    async def stop() -> None:
        for one in listening:
            one.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # connections are closed in their own time

    listening = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def image(
    width: int = 80,
    height: int = 60,
    *,
    mode: str = "RGB",
    kind: str = "JPEG",
    colour: object = None,
    **options: object,
) -> bytes:
    """Make an image of one colour, of which the upper left quarter is black."""
    image = Image.new(mode, (width, height), colour if colour is not None else "red")
    image.paste(Image.new(mode, (width // 2, height // 2)), (0, 0))
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


async def respond(
    request: Request,
    body: bytes,
    *,
    status: str = "200 OK",
    kind: str = "image/jpeg",
    length: int | None = None,
    **headers: str,
) -> bool:
    """Answer as a decent server does; return whether the connection may be used again."""
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Length: {len(body) if length is None else length}",
        f"Content-Type: {kind}",
    ]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    await request.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
    return length is None or length == len(body)


async def not_found(request: Request) -> bool:
    return await respond(request, b"gone", status="404 Not Found", kind="text/html")


def always(body: bytes, **options: object) -> Callable[[Request], Awaitable[bool]]:
    async def answer(request: Request) -> bool:
        return await respond(request, body, **options)

    return answer


async def file(request: Request) -> bool:
    path = request.server.root / request.argument.partition("?")[0]
    return await respond(request, path.read_bytes()) if path.is_file() else await not_found(request)


async def slow(request: Request) -> bool:
    await asyncio.sleep(float(request.argument.partition("?")[0]))
    return await respond(request, GOOD)


async def busy_once(request: Request) -> bool:
    if request.number == 1:
        seconds = request.argument.partition("?")[0]
        return await respond(request, b"", status="429 Too Many Requests", Retry_After=seconds)
    return await respond(request, GOOD)


async def busy_until_a_date(request: Request) -> bool:
    if request.number == 1:
        return await respond(request, b"", status="503 Service Unavailable", Retry_After=formatdate(0, usegmt=True))
    return await respond(request, GOOD)


async def broken_once(request: Request) -> bool:
    if request.number == 1:
        return await respond(request, b"", status="500 Internal Server Error")
    return await respond(request, GOOD)


async def hang_up_once(request: Request) -> bool:
    return request.number > 1 and await respond(request, GOOD)


async def silence(request: Request) -> bool:
    await asyncio.sleep(3600)
    return False


async def stall(request: Request) -> bool:
    await respond(request, GOOD[:50], length=len(GOOD))
    return await silence(request)


async def drip(request: Request) -> bool:
    await respond(request, b"", length=len(GOOD))
    for at in range(len(GOOD)):
        await request.write(GOOD[at : at + 1])
        await asyncio.sleep(0.05)
    return True


async def close_mid_body(request: Request) -> bool:
    return await respond(request, GOOD[: len(GOOD) // 2], length=len(GOOD))


async def garbage(request: Request) -> bool:
    await request.write(b"\x00\x01\x02 this is no HTTP\r\n\r\n")
    return False


async def garbage_chunks(request: Request) -> bool:
    await request.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nno hexadecimal\r\n0\r\n\r\n")
    return False


async def good_chunks(request: Request) -> bool:
    half = len(GOOD) // 2
    parts = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (GOOD[:half], GOOD[half:], b""))
    await request.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + parts)
    return True


async def endless(request: Request) -> bool:
    await request.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n")
    while True:
        await request.write(bytes(10_000))


async def header_flood(request: Request) -> bool:
    await request.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        await request.write(b"X-More: of the same\r\n" * 100)


async def long_header(request: Request) -> bool:
    await request.write(b"HTTP/1.1 200 OK\r\nX-More: " + b"x" * 100_000 + b"\r\n\r\n")
    return False


async def until_closed(request: Request) -> bool:
    await request.write(b"HTTP/1.0 200 OK\r\n\r\n" + GOOD)
    return False


async def redirect(request: Request) -> bool:
    return await respond(request, b"", status="302 Found", Location=request.argument)


async def redirect_and_close(request: Request) -> bool:
    await respond(request, b"", status="302 Found", Location=request.argument, Connection="close")
    return False


async def redirect_home(request: Request) -> bool:
    """Redirect to a file on another host of this server, with a cookie that must not come back."""
    place = request.server.url("good", "127.0.0.3")
    return await respond(request, b"", status="301 Moved", Location=place, Set_Cookie="who=you; Path=/")


async def redirect_for_ever(request: Request) -> bool:
    return await respond(request, b"", status="307 Temporary", Location=f"/redirect_for_ever/{request.number}")


async def redirect_nowhere(request: Request) -> bool:
    return await respond(request, b"", status="302 Found")


def _bomb() -> bytes:
    """Make a PNG whose header promises 40,000 x 40,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return image(80, 40, exif=exif)


def _animation() -> bytes:
    return image(kind="GIF", mode="P", colour=1, save_all=True, append_images=[Image.new("P", (80, 60), 2)])


GOOD = image()
WAYS: dict[str, Callable[[Request], Awaitable[bool]]] = {
    "good": always(GOOD),
    "big": always(image(1024, 640)),
    "forbidden": always(b"no", status="403 Forbidden"),
    "gone": always(b"no", status="410 Gone"),
    "nothing": always(b"", status="204 No Content"),
    "broken": always(b"no", status="500 Internal Server Error"),
    "empty": always(b""),
    "html": always(b"<html><body>This image is no longer here.</body></html>"),
    "text": always(b"not found", kind="text/plain"),
    "svg": always(b'<svg xmlns="http://www.w3.org/2000/svg"/>', kind="image/svg+xml"),
    "png_as_text": always(image(kind="PNG"), kind="text/plain"),
    "truncated": always(GOOD[: len(GOOD) * 2 // 3]),
    "too_short_a_length": always(GOOD, length=len(GOOD) // 2),
    "bomb": always(_bomb(), kind="image/png"),
    "large": always(bytes(LARGE)),
    "gzip_bomb": always(gzip.compress(bytes(50_000_000)), Content_Encoding="gzip"),
    "gzipped": always(gzip.compress(GOOD), Content_Encoding="gzip"),
    "not_gzipped": always(GOOD, Content_Encoding="gzip"),
    "brotli": always(GOOD, Content_Encoding="br"),
    "opted_out": always(GOOD, X_Robots_Tag="otherbot: noindex, NoAI"),
    "animation": always(_animation(), kind="image/gif"),
    "cmyk": always(image(mode="CMYK", colour=(0, 255, 255, 0))),
    "rgba": always(image(mode="RGBA", kind="PNG", colour=(255, 0, 0, 255))),
    "grey16": always(image(mode="I;16", kind="PNG", colour=32_768)),
    "rotated": always(_rotated()),
    "narrow": always(image(300, 60)),
    "tiny": always(image(8, 8)),
    **{
        way.__name__: way
        for way in (
            file,
            slow,
            busy_once,
            busy_until_a_date,
            broken_once,
            hang_up_once,
            silence,
            stall,
            drip,
            close_mid_body,
            garbage,
            garbage_chunks,
            good_chunks,
            endless,
            header_flood,
            long_header,
            until_closed,
            redirect,
            redirect_and_close,
            redirect_home,
            redirect_for_ever,
            redirect_nowhere,
        )
    },
}
