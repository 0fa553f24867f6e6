"""Networks that Python code hands over: known by their bytes again, refused where nobody gives them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import ROOT
from torch import Tensor, nn
from workbench import Cli, Pairs, draw_image

import protorkd
from data_schemas.embedding_array import FEATURE_KIND, EmbeddingArray
from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import StudentConfig
from stages.components.backbones import module_family
from stages.components.images.lazy_image import open_lazily
from stages.components.images.transforms import EvalTransform, Normalize

pytestmark = pytest.mark.usefixtures("quiet_log")

INPUT = protorkd.Preprocessing(image_size=24, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), interpolation="bilinear")
OPTIONS: dict[str, Any] = {"device": "cpu", "workers": 0, "precision": "fp32", "quiet": True}


class Net(nn.Module):
    """A network of one's own, with a buffer, in train mode."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Conv2d(3, 7, 3, 2), nn.BatchNorm2d(7), nn.ReLU(), nn.Dropout(0.5))

    def forward(self, images: Tensor) -> Tensor:
        means: Tensor = self.layers(images).mean((2, 3))
        return means


@pytest.fixture(autouse=True)
def forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_family, "_given", {})


def features_of(result: protorkd.StageResult) -> np.ndarray:
    array = EmbeddingArray.open(result.path, kind=FEATURE_KIND)
    return array.read(0, array.rows)


def test_backbone__is_known_by_class_input_and_bytes() -> None:
    named = protorkd.Backbone(Net(), INPUT).name
    assert named.startswith(f"module:{Net.__module__}.Net@")
    assert protorkd.Backbone(Net(), INPUT).name == named
    changed = Net()
    changed.layers[1].running_mean[2] += 1
    others = [
        protorkd.Backbone(Net(1), INPUT),
        protorkd.Backbone(changed, INPUT),
        protorkd.Backbone(Net(), replace(INPUT, mean=(0.4, 0.5, 0.5))),
        protorkd.Backbone(type("Other", (Net,), {})(), INPUT),
    ]
    assert len({named, *(other.name for other in others)}) == 5


def test_encode_images__gives_what_a_network_makes_of_each_image(encoded: Pairs, store: Path) -> None:
    network = Net()
    backbone = protorkd.Backbone(network, INPUT)
    nn.init.zeros_(network.layers[0].weight)  # too late
    asked = {"images": encoded.root / "images", "feature_dtype": "float32", "store": store, **OPTIONS}
    result = protorkd.encode_images(backbone=backbone, **asked)
    normalize, exact = Normalize(INPUT, torch.device("cpu")), Net().eval()
    for row, image in enumerate(sorted(encoded.images)[:3]):
        pixels = EvalTransform(INPUT)(open_lazily(encoded.root / image))
        with torch.inference_mode():
            expected = exact(normalize(pixels[None]))[0].numpy()
        np.testing.assert_allclose(features_of(result)[row], expected, atol=1e-5)
    assert protorkd.encode_images(backbone=protorkd.Backbone(Net(), INPUT), **asked).status == "unchanged"
    other = protorkd.encode_images(backbone=protorkd.Backbone(Net(1), INPUT), **asked)
    assert (other.status, other.counts["reused_rows"]) == ("created", 0)


def test_student__of_a_network_embeds_images_where_it_is_given(
    encoded: Pairs, store: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "new").mkdir()
    backbone = protorkd.Backbone(Net(), INPUT)
    features = protorkd.encode_images(manifest=encoded.manifest, backbone=backbone, store=store, **OPTIONS)
    trained = {"batch_size": 8, "epochs": 1, "warmup_steps": 0, "store": store, **OPTIONS}
    student = protorkd.distill(features=features, **{**trained, "device": "cpu"})
    config = StudentConfig.read(student.path)
    assert (config.backbone, config.preprocessing) == (backbone.name, INPUT)
    paths = [encoded.root / name for name in encoded.images[:3]]
    embeddings = protorkd.load_student(student, store=store, device="cpu").encode(paths)
    asked = {"student": student, "store": store, "device": "cpu", "workers": 0, "quiet": True}
    protorkd.evaluate(retrieval=encoded.manifest, num_resamples=100, overlap=False, **asked)
    protorkd.embed(images=encoded.root / "images", **asked)
    with pytest.raises(ProtoRKDError, match=f"must be able to build its backbone; got {backbone.name}"):
        protorkd.export(student=student, store=store, quiet=True)

    monkeypatch.setattr(module_family, "_given", {})  # as in another process
    said = f"{backbone.name} must be given in this process"
    with pytest.raises(ProtoRKDError, match=said):
        protorkd.load_student(student, store=store, device="cpu")
    embed = ("embed", "--device", "cpu", "--workers", 0, "--precision", "fp32", "--images")
    assert run_cli(*embed, encoded.root)["status"] == "created"  # features that are known need no network
    draw_image(tmp_path / "new/new.png", "pink", "circle", 40)
    assert said in run_cli.fails(*embed, tmp_path / "new")
    assert said in run_cli.fails("encode-images", "--images", encoded.root, "--backbone", backbone.name)
    protorkd.Backbone(Net(), INPUT)
    again = protorkd.load_student(student, store=store, device="cpu").encode(paths)
    np.testing.assert_array_equal(again, embeddings)


def test_encode_images__refuses_what_a_network_cannot_be_asked_for(encoded: Pairs, store: Path) -> None:
    backbone = protorkd.Backbone(Net(), INPUT)
    asked = {"images": encoded.root / "images", "backbone": backbone, "store": store, **OPTIONS}
    with pytest.raises(ProtoRKDError, match=r"--image-size must be 24 for module:.*; got 32"):
        protorkd.encode_images(image_size=32, **asked)
    with pytest.raises(ProtoRKDError, match=r"--pooling must be native for module:"):
        protorkd.encode_images(pooling="cls", **asked)
    with pytest.raises(ProtoRKDError, match=r"--device must name one device for module:.* got 2.*torchrun"):
        protorkd.encode_images(**{**asked, "device": "cpu,cpu"})


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Conv2d(3, 4, 3), r"Conv2d must map images, \(2, 3, 24, 24\).*; got \(2, 4, 22, 22\).* that pools"),
        (nn.Conv2d(1, 4, 3), "Conv2d must map images, .*; it raised RuntimeError"),
        (nn.Sequential(nn.Flatten(), nn.LSTM(1728, 4)), "must map images, .*; got tuple. Wrap it in a module"),
    ],
)
def test_backbone__refuses_what_gives_no_features(network: nn.Module, message: str) -> None:
    with pytest.raises(ProtoRKDError, match=message):
        protorkd.Backbone(network, INPUT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 0}, "image_size must be 1 or more"),
        ({"std": (0.0, 1.0, 1.0)}, "std must be above 0"),
        ({"mean": (0.5, 0.5)}, "mean and std must have three numbers"),
        ({"interpolation": "lanczos"}, "interpolation must be one of bicubic, bilinear"),
        ({"resize_size": 12}, "resize_size must be 0, or image_size or more"),
        ({"resize": "stretch"}, "resize must be one of shortest, squash"),
    ],
)
def test_backbone__refuses_an_input_that_images_cannot_have(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ProtoRKDError, match=message):
        protorkd.Backbone(Net(), replace(INPUT, **change))


def test_backbone__loads_no_torch_until_it_is_made() -> None:
    code = "import sys, protorkd; protorkd.Backbone; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
