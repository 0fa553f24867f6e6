"""An export of a student of a frozen backbone: one folder that holds backbone and head, and needs no store."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from backbones import make_tiny_backbone
from exports import FORMATS
from frozen_students import EVERY_HEAD, make_frozen_student
from PIL import Image
from workbench import Cli, Pairs

import protorkd
from data_schemas.images.student_checkpoint import HeadConfig
from pipeline.store.store import Store
from stages.components.images.decoding import open_image
from stages.export.loading import load_model
from stages.export.networks_protorkd import build_feature_head


@pytest.fixture
def opened(encoded: Pairs, store: Path) -> Store:
    return Store(store)


def images_of(pairs: Pairs, num: int = 5) -> list[Image.Image]:
    return [open_image(pairs.root / name) for name in pairs.images[:num]]


@pytest.mark.parametrize("head", EVERY_HEAD, ids=lambda head: head.kind)
def test_export__embeds_images_as_backbone_and_head_do(
    head: HeadConfig, opened: Store, encoded: Pairs, run_cli: Cli
) -> None:
    student = make_frozen_student(opened, make_tiny_backbone(opened), head=head)
    folder = Path(run_cli("export")["path"])
    images = images_of(encoded)
    wanted = protorkd.load_student(student.path, store=opened.root, device="cpu").encode(images, normalize=True)
    np.testing.assert_allclose(load_model(folder, device="cpu").encode(images), wanted, atol=1e-5)


def test_export__of_a_student_with_its_own_backbone_needs_no_other_artifact(
    opened: Store, encoded: Pairs, run_cli: Cli
) -> None:
    backbone = make_tiny_backbone(opened)
    student = make_frozen_student(opened, backbone, head=HeadConfig("mlp", 8, 0.5), owns_backbone=True)
    shutil.rmtree(backbone.path)
    folder = Path(run_cli("export", *FORMATS)["path"])
    images = images_of(encoded)
    wanted = protorkd.load_student(student.path, store=opened.root, device="cpu").encode(images, normalize=True)
    np.testing.assert_allclose(load_model(folder, device="cpu").encode(images), wanted, atol=1e-5)
    card = (folder / "README.md").read_text()
    assert "fine-tuned; head on its standardised features: mlp, width 8" in card
    assert json.loads((folder / "torch" / "student.json").read_text())["head"]["kind"] == "mlp"


@pytest.mark.parametrize("name", ["timm:test_convnext", "resnet18"])
def test_export__loads_without_store_and_project(
    name: str, opened: Store, encoded: Pairs, run_cli: Cli, tmp_path: Path
) -> None:
    student = make_frozen_student(opened, make_tiny_backbone(opened, name=name, image_size=64))
    images = images_of(encoded, 2)
    wanted = protorkd.load_student(student.path, store=opened.root, device="cpu").encode(images, normalize=True)
    run_cli("export", "--output", tmp_path / "eyes")
    shutil.rmtree(opened.root)
    images[0].save(tmp_path / "first.png")
    script = (
        "import sys; from PIL import Image; from sentence_transformers import SentenceTransformer\n"
        "model = SentenceTransformer('eyes', device='cpu', trust_remote_code=True)\n"
        "print(model.encode(Image.open('first.png')).tolist())\n"
        "assert 'stages' not in sys.modules\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["HF_HOME"] = str(tmp_path / "hub")
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), wanted[0], atol=1e-5)


def test_export__of_every_format_names_what_it_is_made_of(opened: Store, encoded: Pairs, run_cli: Cli) -> None:
    head = HeadConfig("gated", 8)
    backbone = make_tiny_backbone(opened, name="timm:test_efficientnet", image_size=64)
    make_frozen_student(opened, backbone, head=head)
    folder = Path(run_cli("export", *FORMATS)["path"])
    card = (folder / "README.md").read_text()
    assert "pip install sentence-transformers torchvision timm pillow" in card
    assert backbone.record.digest in card
    assert "head on its standardised features: gated, width 8" in card
    assert "picture" not in card
    settings = json.loads((folder / "config_sentence_transformers.json").read_text())
    assert settings["requirements"]["timm"] == ">=1.0.20"
    described = json.loads((folder / "torch" / "student.json").read_text())
    assert described["head"]["kind"] == "gated"
    assert described["preprocessing"]["size"]["shortest_edge"] > described["preprocessing"]["crop_size"]["height"]
    tensors = torch.load(folder / "torch" / "student.pt", weights_only=True)
    theirs = build_feature_head(described["backbone"]["feature_dim"], 16, kind="gated", width=8)
    theirs.load_state_dict(
        {key.removeprefix("head."): value for key, value in tensors.items() if key.startswith("head.")}
    )
    onnx = json.loads((folder / "onnx" / "preprocessing.json").read_text())
    assert onnx["size"] == described["preprocessing"]["size"]
    assert run_cli("export", *FORMATS)["status"] == "unchanged"


def test_export__saved_again_is_an_export_still(opened: Store, encoded: Pairs, run_cli: Cli, tmp_path: Path) -> None:
    make_frozen_student(opened, make_tiny_backbone(opened), head=HeadConfig("mlp", 8, 0.5))
    model = load_model(Path(run_cli("export")["path"]), device="cpu")
    model.save(str(tmp_path / "again"))
    images = images_of(encoded)
    assert np.array_equal(load_model(tmp_path / "again", device="cpu").encode(images), model.encode(images))
    assert (tmp_path / "again" / "networks_protorkd.py").is_file()
