import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from exports import FORMATS, Exported
from PIL import Image
from workbench import DISTILL, Cli, Pairs

import protorkd
import stages.export.run
from data_schemas.artifact_record import ArtifactRecord
from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import Preprocessing, StudentConfig, TeacherRecord
from pipeline.store.store import Store
from stages.components.images.decoding import open_image
from stages.components.student.checkpoints import find_checkpoint
from stages.components.student.encoder import StudentEncoder
from stages.components.student.student import build_student
from stages.components.student.weights import load_student
from stages.components.teacher.identity import find_teacher
from stages.components.teacher.teacher import Teacher
from stages.export import inputs, parity
from stages.export.code_files import CODE_NAMES
from stages.export.formats import onnx_file
from stages.export.loading import load_model
from stages.export.manifest import MANIFEST_NAME, changes
from stages.export.options import ExportParams
from stages.export.parity import unit

CAPTIONS = ["red circle", "a blue square and a grey stripe", "", "http://127.0.0.1:9/red.jpg", "/etc/hostname.png"]


def images_of(pairs: Pairs, num: int = 24) -> list[Image.Image]:
    return [open_image(pairs.root / name) for name in pairs.images[:num]]


def students_embeddings(store: Path, images: list[Image.Image], reference: str | None = None) -> np.ndarray:
    chosen = find_checkpoint(reference, store=Store(store))
    student = load_student(chosen.config, chosen.weights, device=torch.device("cpu"))
    return unit(StudentEncoder(student, chosen.config, device=torch.device("cpu")).encode(images))


def test_export__embeds_images_as_the_student_and_captions_as_the_teacher(
    exported_session: Exported, word_vectors: Path
) -> None:
    model, images = load_model(exported_session.folder, device="cpu"), images_of(exported_session.pairs)
    wanted = unit(Teacher(find_teacher(str(word_vectors))).encode(CAPTIONS))
    np.testing.assert_allclose(model.encode(CAPTIONS), wanted, atol=1e-5)
    np.testing.assert_allclose(model.encode(images), students_embeddings(exported_session.store, images), atol=1e-5)


def test_export__is_loaded_by_the_library_with_its_flag_alone(exported_session: Exported) -> None:
    from sentence_transformers import SentenceTransformer

    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(exported_session.folder), device="cpu")
    theirs = SentenceTransformer(str(exported_session.folder), device="cpu", trust_remote_code=True)
    ours = load_model(exported_session.folder, device="cpu")
    images = images_of(exported_session.pairs, 3)
    assert np.array_equal(theirs.encode(images), ours.encode(images))
    assert np.array_equal(theirs.encode(CAPTIONS), ours.encode(CAPTIONS))
    assert theirs.similarity_fn_name == "cosine"
    assert theirs.get_embedding_dimension() == 16
    assert np.array_equal(theirs.encode_query("red circle"), ours.encode("red circle"))


def test_export__saved_again_names_nothing_of_this_process(exported_session: Exported, tmp_path: Path) -> None:
    model = load_model(exported_session.folder, device="cpu")
    model.save(str(tmp_path / "again"))
    names = [path.relative_to(tmp_path / "again").as_posix() for path in (tmp_path / "again").rglob("*.json")]
    assert {"modules.json", "router_config.json"} <= set(names)
    for name in names:
        assert "transformers_modules" not in (tmp_path / "again" / name).read_text()
    assert (tmp_path / "again" / "modeling_protorkd.py").read_bytes() == (
        exported_session.folder / "modeling_protorkd.py"
    ).read_bytes()
    images = images_of(exported_session.pairs, 3)
    assert np.array_equal(load_model(tmp_path / "again", device="cpu").encode(images), model.encode(images))


def test_export__differs_in_nothing_when_it_is_made_again(exported: Exported, run_cli: Cli) -> None:
    asked = ("export", *FORMATS, "--license", "Apache-2.0", "--language", "en")
    again = run_cli(*asked)
    assert again["status"] == "unchanged"
    forced = run_cli(*asked, "--force")
    assert forced["status"] == "created"
    assert forced["digest"] == exported.outcome["digest"]


def test_export__is_made_again_when_the_code_that_goes_with_it_has_changed(
    exported: Exported, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = ("export", "--format", "torch")
    assert run_cli(*asked)["status"] == "created"
    (tmp_path / "model_card").mkdir()
    for path in (*CODE_NAMES, "model_card/card.md"):
        (tmp_path / path).write_text("another")
    monkeypatch.setattr(inputs, "__file__", str(tmp_path / "inputs.py"))
    why = run_cli.run("why", *asked).output
    assert "code card.md" in why
    assert all(f"code {name}" in why for name in CODE_NAMES)


def test_export__lists_stop_words_in_order(exported_session: Exported) -> None:
    path = exported_session.folder / "text_0_WordEmbeddings" / "whitespacetokenizer_config.json"
    words = json.loads(path.read_text())["stop_words"]
    assert len(words) > 100
    assert words == sorted(words)


def test_export__can_be_read_by_others_and_names_no_place(exported_session: Exported) -> None:
    umask = os.umask(0)
    os.umask(umask)
    for name in json.loads((exported_session.folder / MANIFEST_NAME).read_text())["files"]:
        path = exported_session.folder / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path
        for place in (str(exported_session.store.parent), str(exported_session.pairs.root), str(Path.home())):
            assert place.encode() not in path.read_bytes(), path
    of_the_store = changes(exported_session.folder).keys()
    assert {"artifact.json"} <= of_the_store <= {"artifact.json", "logs/config.toml"}


def test_export__takes_the_weights_after_an_epoch(exported: Exported, run_cli: Cli) -> None:
    fingerprint = json.loads((exported.folder / MANIFEST_NAME).read_text())["lineage"]["student"]["fingerprint"]
    reference = f"{fingerprint[:12]}@epoch_1"
    first = Path(run_cli("export", "--student", reference)["path"])
    images = images_of(exported.pairs, 4)
    given = load_model(first, device="cpu").encode(images)
    np.testing.assert_allclose(given, students_embeddings(exported.store, images, reference), atol=1e-5)
    assert not np.allclose(given, load_model(exported.folder, device="cpu").encode(images), atol=1e-3)
    card = (first / "README.md").read_text()
    assert "epoch\\_1, after epoch 1" in card
    assert "mean recall" in card  # without intervals, for the evaluation shows them for the last weights


@pytest.mark.parametrize("recipe", [("--prompt", "red "), ("--max-tokens", 4), ("--truncate-dim", 8)])
def test_export__embeds_captions_by_the_recipe(
    recipe: tuple[object, ...], run_cli: Cli, pairs_folder, bert_folder: Path
) -> None:
    pairs = pairs_folder(24, 40)
    run_cli("encode-teacher", "--manifest", pairs.manifest, "--teacher", bert_folder, *recipe)
    run_cli(*DISTILL, "--epochs", 1)
    folder = Path(run_cli("export")["path"])
    options = {str(recipe[0])[2:].replace("-", "_"): recipe[1]}
    captions = ["red circle", "one two three four five six seven eight nine", "blue"]
    wanted = unit(Teacher(find_teacher(str(bert_folder)), **options).encode(captions))
    model = load_model(folder, device="cpu")
    np.testing.assert_allclose(model.encode(captions), wanted, atol=1e-5)
    np.testing.assert_allclose(model.encode_query(captions), wanted, atol=1e-5)
    plain = unit(Teacher(find_teacher(str(bert_folder))).encode(captions))
    assert wanted.shape != plain.shape or not np.allclose(wanted, plain, atol=1e-3)
    for name in ("model.safetensors", "tokenizer.json", "sentence_bert_config.json"):
        assert (folder / "text_0_Transformer" / name).read_bytes() == (bert_folder / name).read_bytes()


def test_export__writes_a_teacher_of_half_precision_in_float32(
    run_cli: Cli, pairs_folder, bert_folder: Path, tmp_path: Path
) -> None:
    teacher = shutil.copytree(bert_folder, tmp_path / "half")
    tensors = safetensors.torch.load_file(teacher / "model.safetensors")
    safetensors.torch.save_file({k: v.bfloat16() for k, v in tensors.items()}, teacher / "model.safetensors")
    config = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    run_cli("encode-teacher", "--manifest", pairs_folder(24, 40).manifest, "--teacher", teacher)
    run_cli(*DISTILL, "--epochs", 1)
    folder = Path(run_cli("export")["path"])
    captions = ["red circle", "blue"]
    wanted = unit(Teacher(find_teacher(str(teacher))).encode(captions))
    np.testing.assert_allclose(load_model(folder, device="cpu").encode(captions), wanted, atol=1e-6)
    assert json.loads((folder / "text_0_Transformer" / "config.json").read_text())["dtype"] == "float32"


OWN_POOLING = """
from sentence_transformers.base.modules import Module

class LastToken(Module):
    config_keys = []

    def forward(self, features):
        features["sentence_embedding"] = features["token_embeddings"][:, -1]
        return features

    def get_embedding_dimension(self):
        return 16

    def save(self, output_path, *args, **kwargs):
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path, subfolder="", **kwargs):
        return cls()
"""


def test_export__takes_a_teachers_own_code_along(run_cli: Cli, pairs_folder, bert_folder: Path, tmp_path: Path) -> None:
    teacher = shutil.copytree(bert_folder, tmp_path / "teacher")
    (teacher / "last_token.py").write_text(OWN_POOLING)
    modules = json.loads((teacher / "modules.json").read_text())
    modules[1]["type"] = "last_token.LastToken"
    (teacher / "modules.json").write_text(json.dumps(modules))
    pairs = pairs_folder(24, 40)
    run_cli("encode-teacher", "--manifest", pairs.manifest, "--teacher", teacher, "--trust-remote-code")
    run_cli(*DISTILL, "--epochs", 1)
    assert "--trust-remote-code" in run_cli.fails("export")
    folder = Path(run_cli("export", "--trust-remote-code")["path"])
    with pytest.raises(ProtoRKDError, match="trust_remote_code"):
        load_model(folder)
    model = load_model(folder, device="cpu", trust_remote_code=True)
    wanted = unit(Teacher(find_teacher(str(teacher), trust_code=True)).encode(["red circle", "blue"]))
    np.testing.assert_allclose(model.encode(["red circle", "blue"]), wanted, atol=1e-5)
    model.save(str(tmp_path / "again"))
    again = load_model(tmp_path / "again", device="cpu", trust_remote_code=True)
    assert np.array_equal(again.encode(["red circle"]), model.encode(["red circle"]))


def test_export__of_other_formats_needs_no_teacher(exported: Exported, run_cli: Cli) -> None:
    folder = Path(run_cli("export", "--format", "torch")["path"])
    assert not (folder / "modules.json").exists()
    assert "SentenceTransformer" not in (folder / "README.md").read_text()


def test_export__refuses_a_student_of_another_width(encoded: Pairs, run_cli: Cli) -> None:
    run_cli(*DISTILL, "--epochs", 1, "--projection-dim", 8, "--loss", "rkd=1")
    assert "as wide as its teacher" in run_cli.fails("export")


def test_export__keeps_to_the_evaluation_that_it_began_with(
    exported: Exported, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation that ends while an export works is the next export's."""
    [first] = (exported.store / "evaluate").glob("[!.]*")
    evaluate = ("evaluate", "--retrieval", exported.pairs.manifest, "--device", "cpu", "--workers", 0, "--no-overlap")
    real = stages.export.run.write_card

    def after_another(*arguments: Any, **options: Any) -> None:
        run_cli(*evaluate, "--num-resamples", 102)
        real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(stages.export.run, "write_card", after_another)
        made = run_cli("export", "--license", "mit")
    assert ArtifactRecord.read(Path(made["path"])).inputs["evaluation"].location == str(first)
    again = run_cli("export", "--license", "mit")
    assert again["status"] == "created"
    assert ArtifactRecord.read(Path(again["path"])).inputs["evaluation"].location != str(first)


def test_export__refuses_an_evaluation_of_another_student(exported: Exported, run_cli: Cli) -> None:
    [evaluation] = [path.name for path in (exported.store / "evaluate").glob("[!.]*")]
    run_cli(*DISTILL, "--epochs", 1, "--seed", 1)
    assert "--evaluation must have measured" in run_cli.fails("export", "--evaluation", evaluation)
    assert "None: no evaluation" in Path(run_cli("export")["path"], "README.md").read_text()


@pytest.mark.parametrize(
    ("option", "value"),
    [("--license", "my own words"), ("--model-name", "a/b/c"), ("--base-model", "-x"), ("--language", "in English")],
)
def test_export__refuses_names_that_are_none(option: str, value: str, run_cli: Cli) -> None:
    assert f"{option} must be" in run_cli.fails("export", option, value)


def test_params__name_each_format_once() -> None:
    assert ExportParams(format=("torch", "onnx", "torch")) == ExportParams(format=("onnx", "torch"))


def test_load_model__refuses_what_is_no_export(exported: Exported, run_cli: Cli, tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match="must be an export for sentence-transformers"):
        load_model(tmp_path)
    with pytest.raises(ProtoRKDError, match="which is neither"):
        load_model("nobody/has-this")
    weights = exported.folder / "image_0_ProtoRKDImageEncoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ProtoRKDError, match="must be an export that can be loaded"):
        load_model(exported.folder)


def test_load_model__runs_no_code_of_the_folder(exported: Exported) -> None:
    (exported.folder / "modeling_protorkd.py").write_text("raise SystemExit('this ran')")
    assert protorkd.load_model(exported.folder, device="cpu").encode("red circle").shape == (16,)


def test_load_model__refuses_modules_elsewhere(exported: Exported) -> None:
    path = exported.folder / "router_config.json"
    config = json.loads(path.read_text())
    config["types"] = {"../../elsewhere": config["types"].popitem()[1]}
    path.write_text(json.dumps(config))
    with pytest.raises(ProtoRKDError, match="must name folders beside it"):
        load_model(exported.folder)


def test_onnx__has_any_number_of_images_and_no_trace_of_the_machine(exported_session: Exported) -> None:
    import onnxruntime

    folder = exported_session.folder / "onnx"
    session = onnxruntime.InferenceSession(str(folder / "image_encoder.onnx"), providers=["CPUExecutionProvider"])
    described = json.loads((folder / "preprocessing.json").read_text())
    model, images = load_model(exported_session.folder, device="cpu"), images_of(exported_session.pairs)
    for number in (1, 7):
        wanted = model.encode(images[:number])
        crops = np.stack([np.asarray(image.resize((32, 32), described["resample"])) for image in images[:number]])
        numbers = (crops * described["rescale_factor"] - described["image_mean"]) / described["image_std"]
        given = session.run(["image_embeds"], {"pixel_values": numbers.transpose(0, 3, 1, 2).astype(np.float32)})[0]
        np.testing.assert_allclose(given, wanted, atol=1e-4)
    data = (folder / "image_encoder.onnx").read_bytes()
    assert b"site-packages" not in data
    assert b"Traceback" not in data
    assert exported_session.outcome["metrics"]["onnx/difference_in_millionths"] < 100


def test_onnx__that_embeds_otherwise_is_an_error(
    exported: Exported, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "TOLERANCE", -1.0)
    assert "must be within" in run_cli.fails("export", "--format", "onnx")


def test_onnx__beyond_one_message_has_its_weights_beside_it(exported: Exported, run_cli: Cli, monkeypatch) -> None:
    monkeypatch.setattr(onnx_file, "_LARGEST_MESSAGE", 1000)
    folder = Path(run_cli("export", "--format", "onnx")["path"])
    assert (folder / "onnx" / "image_encoder.onnx.data").stat().st_size > 100_000


def test_onnx__without_its_packages_says_what_to_install(exported: Exported, run_cli: Cli, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'protorkd[onnx]'" in run_cli.fails("export", "--format", "onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vit_b_32", "convnext_tiny", "mobilenet_v3_small", "resnet50w2"])
def test_onnx__embeds_as_pytorch_whatever_the_backbone(name: str, tmp_path: Path) -> None:
    student = build_student(name, embedding_dim=16, image_size=64).eval()
    teacher = TeacherRecord(identity="", dim=16, recipe={})
    config = StudentConfig(name, 16, 1, Preprocessing(image_size=64), teacher, {})
    assert onnx_file.write_onnx(student, config, tmp_path) < 1e-5


def test_torch__is_read_without_running_code(exported_session: Exported) -> None:
    folder = exported_session.folder / "torch"
    state = torch.load(folder / "student.pt", weights_only=True)
    chosen = find_checkpoint(None, store=Store(exported_session.store))
    student = load_student(chosen.config, chosen.weights, device=torch.device("cpu"))
    assert state.keys() == student.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in student.state_dict().items())
    described = json.loads((folder / "student.json").read_text())
    assert described["backbone"]["name"] == "squeezenet1_1"
    assert described["preprocessing"]["size"] == {"shortest_edge": 32}


FRESH = """
import sys
import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer

folder, image, saved = sys.argv[1:]
model = SentenceTransformer(folder, device="cpu", trust_remote_code=True)
assert not {"stages", "data_schemas"} & set(sys.modules)
found = np.concatenate([model.encode([Image.open(image)]), model.encode(["red circle"])])
np.save(saved + ".npy", found)
model.save(saved)
"""


@pytest.mark.slow
def test_export__saved_and_loaded_in_fresh_processes_gives_the_same_numbers(exported: Exported, tmp_path: Path) -> None:
    image = exported.pairs.root / exported.pairs.images[0]
    outputs = []
    source = exported.folder
    for turn in ("one", "two", "three"):
        environment = {**os.environ, "HF_HOME": str(tmp_path / turn / "cache")}
        place = tmp_path / turn / "saved"
        place.parent.mkdir()
        words = [sys.executable, "-I", "-c", FRESH, str(source), str(image), str(place)]
        subprocess.run(words, check=True, cwd=tmp_path, env=environment, capture_output=True)
        outputs.append(np.load(f"{place}.npy"))
        source = place
    assert np.abs(outputs[0] - outputs[1]).max() == 0
    assert np.abs(outputs[0] - outputs[2]).max() == 0


@pytest.mark.slow
def test_export__is_the_same_whatever_the_order_of_sets(exported: Exported, tmp_path: Path) -> None:
    words = ["cli.py", "export", *FORMATS, "--license", "Apache-2.0", "--language", "en", "--force", "--json"]
    root = Path(__file__).parents[3]
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        done = subprocess.run(
            [sys.executable, *words, "--store", str(exported.store)],
            check=True,
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert json.loads(done.stdout)["digest"] == exported.outcome["digest"]
