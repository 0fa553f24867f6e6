"""Values of export's fixtures: an export with its store, and a hub that answers on this machine."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench import Pairs

FORMATS = ("--format", "sentence-transformers", "--format", "onnx", "--format", "torch")


@dataclass(frozen=True)
class Exported:
    """A store with an export of its student; never written to."""

    store: Path
    folder: Path
    outcome: dict[str, Any]
    pairs: Pairs


@dataclass
class Hub:
    """Requests and files that a hub received, and how it answers.

    Args:
        address: Address of the server.
        requests: Method, path and body of each request.
        files: Content of the committed files, by name.
        refuses: Paths that begin so are answered with 403 and ``message``.
        message: Text of that answer.
    """

    address: str
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    files: dict[str, Any] = field(default_factory=dict)
    refuses: str = "nothing"
    message: str = ""

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if path.startswith(self.refuses):
            return 403, {"error": self.message}
        if path == "/api/repos/create":
            asked = json.loads(body)
            return 200, {"url": f"{self.address}/{asked['organization']}/{asked['name']}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            return 200, {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = line["value"]["content"]
            return 200, {"commitUrl": f"{self.address}/someone/eyes/commit/0123", "commitOid": "0" * 40}
        return 200, {}
