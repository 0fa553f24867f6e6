"""--teacher-precision auto: settled before anything is hashed, so that all ways of asking come to one request."""

import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner
from workbench import Cli

import protorkd
import stages.components.compute.device
from cli import cli
from pipeline.stage import Context, Input
from pipeline.store.file_digests import FileDigests
from pipeline.store.store import Store
from stages.components.teacher.identity import TeacherSource
from stages.encode_teacher.auto_precision import settle_precision
from stages.encode_teacher.options import EncodeParams, EncodeRuntime, EncodeSources

if TYPE_CHECKING:
    from object_server import ObjectServer

Write = Callable[..., Path]

# Of the two captions below, their names and word_vectors: from before there was an "auto", whose default was fp32.
FP32 = "34ee0a161e717bd62dcbb2a459aa6172"
CAPTIONS = ["red circle", "blue square"]


@pytest.fixture
def encode(run_cli: Cli, word_vectors: Path, write_manifest: Write) -> Callable[..., dict[str, Any]]:
    def run(captions: Sequence[str], *words: object, cli: Cli = run_cli) -> dict[str, Any]:
        manifest = write_manifest(captions, name=f"{len(captions)}.tsv")
        return cli("encode-teacher", "--manifest", manifest, "--teacher", word_vectors, "--device", "cpu", *words)

    return run


def precision_of(outcome: dict[str, Any]) -> str:
    record = json.loads((Path(outcome["path"]) / "artifact.json").read_text())
    precision: str = record["params"]["teacher_precision"]
    config = tomllib.loads((Path(outcome["path"]) / "logs" / "config.toml").read_text())
    assert config["encode-teacher"]["teacher-precision"] == precision
    return precision


def test_auto__on_a_cpu_is_fp32_with_the_fingerprint_that_it_always_had(encode: Any) -> None:
    outcome = encode(CAPTIONS)
    assert outcome["fingerprint"] == FP32
    assert precision_of(outcome) == "fp32"
    assert encode(CAPTIONS, "--teacher-precision", "fp32")["status"] == "unchanged"


def test_auto__is_what_the_store_holds_of_the_teacher(encode: Any, bert_folder: Path) -> None:
    encode(CAPTIONS, "--teacher", bert_folder, "--embedding-dtype", "float32")  # of another teacher
    encode(CAPTIONS, "--teacher-precision", "bf16")
    more = encode([*CAPTIONS, "green"])
    assert precision_of(more) == "bf16"
    assert more["counts"]["reused_captions"] == 2


def test_auto__is_that_of_the_same_request_before_that_of_a_newer_one(encode: Any) -> None:
    first = encode(CAPTIONS)
    encode([*CAPTIONS, "green"], "--teacher-precision", "bf16")
    assert encode(CAPTIONS) == {**first, "status": "unchanged", "seconds": pytest.approx(0, abs=60)}
    assert precision_of(encode([*CAPTIONS, "green", "yellow"])) == "fp32"  # of what was asked for last


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let --device find GPUs of some compute capability, or a CPU."""

    def found(**capabilities: int) -> None:
        named = [torch.device(name if name == "cpu" else f"{name[:4]}:{name[4:]}") for name in capabilities]
        monkeypatch.setattr(stages.components.compute.device, "choose_devices", lambda _names: named)
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda device: (capabilities[f"{device.type}{device.index}"], 6)
        )

    return found


def settled(tmp_path: Path, *, asked: str = "auto", device: str = "auto", kind: str = "sentence-transformers") -> str:
    teacher = Input("digest", value=TeacherSource("name", tmp_path, kind))
    sources = EncodeSources(manifest=Input("other", value=None), teacher=teacher)
    store = Store(tmp_path / "none")
    params = EncodeParams(teacher_precision=asked)
    runtime = EncodeRuntime(device=device)
    return settle_precision(params, sources, runtime, Context(store, FileDigests(tmp_path / "memo"))).teacher_precision


@pytest.mark.parametrize(
    ("capabilities", "precision", "reason"),
    [
        ({"cuda0": 8}, "bf16", "which cuda:0 multiplies in hardware"),
        ({"cuda0": 9, "cuda1": 9}, "bf16", "which cuda:0, cuda:1 multiplies in hardware"),
        ({"cuda0": 7}, "fp32", "as the device is cuda:0"),
        ({"cuda0": 9, "cuda1": 7}, "fp32", "as the device is cuda:0, cuda:1"),
        ({"cpu": 0}, "fp32", "as the device is cpu"),
    ],
)
@pytest.mark.usefixtures("quiet_log")
def test_auto__of_a_new_store_is_what_the_device_multiplies(
    capabilities: dict[str, int],
    precision: str,
    reason: str,
    devices: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    devices(**capabilities)
    with caplog.at_level("INFO"):
        assert settled(tmp_path) == precision
    assert caplog.messages == [f"teacher precision: {precision}, {reason}"]
    assert settled(tmp_path, kind="word-vectors") == "fp32"
    assert settled(tmp_path, device="cpu, cpu") == "fp32"
    assert settled(tmp_path, asked="fp16") == "fp16"


def test_auto__comes_to_the_same_request_however_it_is_asked_for(
    encode: Any, run_cli: Cli, write_manifest: Write, word_vectors: Path, tmp_path: Path
) -> None:
    encode(CAPTIONS, "--teacher-precision", "bf16")
    captions = [*CAPTIONS, "green"]
    manifest = write_manifest(captions, name="3.tsv")
    words = ("--manifest", manifest, "--teacher", word_vectors, "--device", "cpu")
    why = json.loads(run_cli.run("why", "encode-teacher", *words, "--json").stdout)
    assert [each["field"].partition(" ")[0] for each in why["differences"]] == ["manifest"]
    dry = run_cli("encode-teacher", *words, "--dry-run")
    assert dry["estimate"]["counts"] == {"pairs": 3, "captions": 3, "encoded_captions": 1}
    path = tmp_path / "run.toml"
    path.write_text(
        f'store = "{run_cli.store}"\n[encode-teacher]\n'
        f'manifest = "{manifest}"\nteacher = "{word_vectors}"\ndevice = "cpu"\n'
    )
    forecast = CliRunner().invoke(cli, ["run", str(path), "--dry-run", "--json"], catch_exceptions=False)
    [of_file] = json.loads(forecast.stdout)["stages"]
    made = protorkd.encode_teacher(
        manifest=manifest, teacher=str(word_vectors), device="cpu", store=run_cli.store, quiet=True
    )
    assert made.status == "created"
    assert {why["fingerprint"], dry["fingerprint"], of_file["fingerprint"]} == {made.fingerprint}
    result = CliRunner().invoke(cli, ["run", str(path), "--json"], catch_exceptions=False)
    [line, _] = map(json.loads, result.stdout.splitlines())
    assert (line["status"], line["fingerprint"]) == ("unchanged", made.fingerprint)
    assert precision_of(line) == "bf16"


def test_auto__of_a_store_elsewhere_is_what_another_machine_put_there(
    encode: Any, bucket: str, bucket_server: "ObjectServer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def machine(name: str) -> Cli:
        monkeypatch.setenv("PROTORKD_STORE_CACHE", str(tmp_path / name))
        return Cli(f"{bucket}/store")  # type: ignore[arg-type]

    first = encode(CAPTIONS, "--teacher-precision", "bf16", cli=machine("one"))
    second = encode([*CAPTIONS, "green"], cli=machine("two"))
    assert precision_of(second) == "bf16"
    assert second["counts"]["reused_captions"] == 2
    bucket_server.requests.clear()
    assert encode(CAPTIONS, cli=machine("one"))["fingerprint"] == first["fingerprint"]
    read = [path for method, path in bucket_server.requests if method == "GET" and "list-type" not in path]
    assert all(path.endswith((".asked?", ".json?")) for path in read)  # records alone: what is here is not fetched
