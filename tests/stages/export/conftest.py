"""An export of a tiny student in all formats, made once; and a hub on this machine."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from exports import FORMATS, Exported, Hub
from workbench import Cli, Pairs, Trained


@pytest.fixture(scope="session")
def exported_session(
    tmp_path_factory: pytest.TempPathFactory, undisturbed: Trained, encoded_session: tuple[Path, Pairs]
) -> Exported:
    pairs = encoded_session[1]
    store = shutil.copytree(undisturbed.store, tmp_path_factory.mktemp("exported") / "store")
    cli = Cli(store)
    cli("evaluate", "--retrieval", pairs.manifest, "--checkpoints", "all", "--workers", 0, "--device", "cpu")
    outcome = cli("export", *FORMATS, "--license", "Apache-2.0", "--language", "en")
    return Exported(store, Path(outcome["path"]), outcome, pairs)


@pytest.fixture
def exported(exported_session: Exported, store: Path) -> Exported:
    """Return the same, in this test's own store."""
    shutil.copytree(exported_session.store, store)
    folder = store / exported_session.folder.relative_to(exported_session.store)
    return Exported(store, folder, exported_session.outcome, exported_session.pairs)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Yield a model hub on the loopback interface, which huggingface_hub is led to with a token."""
    from huggingface_hub import constants

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            loopback_hub.requests.append(("POST", self.path, body))
            status, said = loopback_hub.answer(self.path, body)
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            loopback_hub.requests.append(("GET", self.path, b""))
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    loopback_hub = Hub(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", loopback_hub.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield loopback_hub
    server.shutdown()
    server.server_close()
