"""The local server: what it answers, and what it does not answer to."""

import http.client
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from searching import Embedded, opened_search

from data_schemas.errors import ProtoRKDError
from stages.search.server import HOST, SearchServer


@pytest.fixture(scope="module")
def server(own_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchServer]:
    opened = opened_search(own_store)
    with SearchServer(opened, [opened.ask_text("red circle", top=3)], top=5, port=0) as started:
        thread = threading.Thread(target=started.serve_forever, daemon=True)
        thread.start()
        yield started
        started.shutdown()
        thread.join()


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    def json(self) -> Any:
        return json.loads(self.body)


def ask(server: SearchServer, path: str, *, method: str = "GET", key: str | None = None, **options: Any) -> Answer:
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=30)
    connection.request(method, f"/{server.key if key is None else key}/{path}", **options)
    answer = Answer(connection.getresponse())
    connection.close()
    return answer


def test_server__listens_on_the_loopback_interface_alone(server: SearchServer) -> None:
    assert server.server_address[0] == HOST
    assert server.url.startswith(f"http://127.0.0.1:{server.server_port}/")


def test_server__answers_words_with_the_nearest_images(server: SearchServer, embedded_session: Embedded) -> None:
    answer = ask(server, "search?text=green+square").json()
    assert answer["name"] == "green square"
    assert len(answer["hits"]) == 24
    scores = [hit["score"] for hit in answer["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert answer["hits"][0]["name"] in embedded_session.images.images


def test_server__answers_an_uploaded_image_with_itself(server: SearchServer, embedded_session: Embedded) -> None:
    name = embedded_session.images.images[7]
    found = ask(server, "search", method="POST", body=(embedded_session.images.root / name).read_bytes()).json()
    assert found["hits"][0]["name"] == name
    assert found["hits"][0]["score"] == pytest.approx(1, abs=1e-3)


def test_server__answers_a_row_with_its_neighbours_and_not_with_itself(server: SearchServer) -> None:
    found = ask(server, "nearest/3").json()
    assert found["row"] == 3
    assert 3 not in [hit["row"] for hit in found["hits"]]
    assert len(found["hits"]) == 23


def test_server__gives_images_of_the_set(server: SearchServer) -> None:
    for path in ("picture/0", "picture/0/whole"):
        answer = ask(server, path)
        assert (answer.status, answer.headers["Content-Type"]) == (200, "image/jpeg")
        assert answer.body.startswith(b"\xff\xd8\xff")


@pytest.mark.parametrize(
    "path",
    [
        *("picture/24", "picture/-1", "picture/1e3", "picture/", "picture/0/other", "nearest/99"),
        *("picture/..%2f..%2fetc%2fpasswd", "../etc/passwd", "picture/../../../../etc/passwd", "elsewhere"),
        "picture/" + "9" * 5000,
    ],
)
def test_server__knows_nothing_but_rows_of_the_set(server: SearchServer, path: str) -> None:
    answer = ask(server, path)
    assert answer.status == 404
    assert b"root:" not in answer.body


@pytest.mark.parametrize("key", ["", "wrong", "x" * 22])
def test_server__answers_nothing_without_its_key(server: SearchServer, key: str) -> None:
    for path in ("", "search?text=red", "picture/0"):
        assert ask(server, path, key=key).status == 404
    assert ask(server, "search", key=key, method="POST", body=b"x").status == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
def test_server__answers_no_stranger_whose_name_leads_here(server: SearchServer, headers: dict[str, str]) -> None:
    assert ask(server, "", headers=headers).status == 404
    assert ask(server, "search?text=red", headers=headers).status == 404


def test_server__keeps_browsers_from_showing_it_elsewhere(server: SearchServer) -> None:
    for path in ("", "search?text=red", "picture/0", "elsewhere"):
        headers = ask(server, path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("path", "options", "status", "message"),
    [
        ("search?text=", {}, 400, "Say what to look for"),
        ("search", {}, 400, "Say what to look for"),
        ("search?text=" + "red+" * 200, {}, 400, "500 characters at most"),
        ("search?text=xyzzy", {}, 400, "comes out as a zero vector"),
        ("search", {"method": "POST", "body": b"no image"}, 400, "no image that can be read"),
        ("search", {"method": "POST", "body": b""}, 400, "no image that can be read"),
        ("search", {"method": "POST", "headers": {"Content-Length": "-5"}}, 411, "how long"),
        ("search", {"method": "POST", "headers": {"Content-Length": str(1 << 40)}}, 413, "64 MB at most"),
        ("nearest/0", {"method": "POST", "body": b"x"}, 404, "nothing here"),
    ],
)
def test_server__says_what_is_wrong_with_a_question(
    server: SearchServer, path: str, options: dict[str, Any], status: int, message: str
) -> None:
    answer = ask(server, path, **options)
    assert answer.status == status
    assert message in answer.json()["error"]
    assert ask(server, "search?text=red").status == 200  # it goes on


def test_server__refuses_an_image_that_would_fill_the_memory(server: SearchServer) -> None:
    bomb = b"P6 200000 200000 255\n"
    answer = ask(server, "search", method="POST", body=bomb)
    assert (answer.status, "megapixels" in answer.json()["error"]) == (400, True)


def test_server__says_so_where_its_port_is_taken(own_store: Path) -> None:
    opened = opened_search(own_store)
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(ProtoRKDError, match="--port must be free"):
            SearchServer(opened, [], top=5, port=taken.getsockname()[1])


def test_server__draws_a_new_key_each_time(server: SearchServer, own_store: Path) -> None:
    with SearchServer(opened_search(own_store), [], top=5, port=0) as other:
        assert other.key != server.key
        assert len(other.key) > 20


def test_serve__ends_by_ctrl_c(embedded: Embedded, start: Callable[..., "subprocess.Popen[str]"]) -> None:
    process = start("search", "--serve", "--device", "cpu")
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith(f"open http://{HOST}:")
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert line.rpartition("/")[0].rpartition("/")[2] not in errors
