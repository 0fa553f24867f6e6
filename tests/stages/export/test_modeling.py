"""The code that lies beside an exported model: it must see and embed as this project does, and open nothing."""

import builtins
import io
import socket
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from exports import Exported
from PIL import Image

from data_schemas.images.student_checkpoint import Preprocessing
from stages.components.images.decoding import decode_image
from stages.components.images.lazy_image import DecodedImage
from stages.components.images.transforms import EvalTransform, Normalize
from stages.components.student.student import build_student
from stages.export.loading import load_model
from stages.export.modeling_protorkd import ProtoRKDImageEncoder, to_rgb


def encoder_of(
    name: str, *, image_size: int = 32, layers: int = 1, preprocessing: Preprocessing | None = None
) -> ProtoRKDImageEncoder:
    described = asdict(preprocessing or Preprocessing(image_size=image_size))
    return ProtoRKDImageEncoder(backbone_name=name, embedding_dim=16, projection_layers=layers, **described)


def noise(mode: str, size: tuple[int, int] = (50, 41)) -> Image.Image:
    numbers = np.random.default_rng(0)
    pixels = numbers.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(numbers.integers(0, 65536, size[::-1], dtype=np.uint16))
    if mode == "F":
        return Image.fromarray(numbers.random(size[::-1], dtype=np.float32))
    return Image.fromarray(pixels, "RGBA").convert(mode) if mode != "RGBA" else Image.fromarray(pixels)


def as_files() -> list[tuple[str, bytes]]:
    """Images of many kinds, as files have them."""
    paths = []
    for mode, kind in [
        ("RGB", "PNG"),
        ("RGBA", "PNG"),
        ("L", "PNG"),
        ("LA", "PNG"),
        ("P", "GIF"),
        ("1", "PNG"),
        ("I;16", "PNG"),
        ("I;16", "TIFF"),
        ("F", "TIFF"),
        ("CMYK", "JPEG"),
        ("RGBA", "WEBP"),
    ]:
        buffer = io.BytesIO()
        noise(mode).save(buffer, kind)
        paths.append((f"{mode} {kind}", buffer.getvalue()))
    clear = noise("P")
    for turn in (3, 5, 6, 8):
        buffer, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = turn
        noise("RGB").save(buffer, "JPEG", exif=exif)
        paths.append((f"turned {turn}", buffer.getvalue()))
    buffer = io.BytesIO()
    clear.save(buffer, "PNG", transparency=3)
    return [*paths, ("P with a transparent colour", buffer.getvalue())]


@pytest.mark.parametrize(("kind", "data"), as_files(), ids=lambda value: value if isinstance(value, str) else "")
def test_to_rgb__shows_what_the_project_sees(kind: str, data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        given = to_rgb(image)
    assert given.mode == "RGB"
    assert np.array_equal(np.asarray(given), np.asarray(decode_image(io.BytesIO(data))))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.full((4, 4), 3.0, np.float32), "samples from 0 to 1"),
        (np.full((4, 4), 200, np.int32), "integers of 32 bits"),  # which would come out black, as if of 16 bits
        (np.full((4, 4), 70_000, np.int32), "integers of 32 bits"),
    ],
)
def test_to_rgb__refuses_samples_of_unknown_scale(samples: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_rgb(Image.fromarray(samples))


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(image_size=32, resize_size=36),
        Preprocessing(image_size=32, resize="squash"),
        Preprocessing(image_size=24, resize_size=28, resize="squash", interpolation="bilinear"),
    ],
)
def test_preprocess__resizes_as_the_backbone_wants_it(preprocessing: Preprocessing) -> None:
    encoder, image = encoder_of("squeezenet1_1", preprocessing=preprocessing), noise("RGB")
    wanted = EvalTransform(preprocessing)(DecodedImage(np.asarray(image)))
    assert torch.equal(encoder.preprocess([image])["pixel_values"][0], wanted)


@pytest.mark.parametrize("size", [(50, 41), (31, 90), (32, 32), (7, 9), (300, 200)])
def test_preprocess__crops_as_evaluation_does(size: tuple[int, int]) -> None:
    image = noise("RGB", size)
    given = encoder_of("squeezenet1_1").preprocess([image])["pixel_values"]
    wanted = EvalTransform(Preprocessing(image_size=32))(DecodedImage(np.asarray(image)))
    assert given.dtype == torch.uint8
    assert torch.equal(given[0], wanted)


def test_preprocess__takes_arrays_and_named_images() -> None:
    encoder, image = encoder_of("squeezenet1_1"), noise("RGB")
    given = encoder.preprocess([image, np.asarray(image), {"image": image}])["pixel_values"]
    assert torch.equal(given[0], given[1])
    assert torch.equal(given[0], given[2])


@pytest.mark.parametrize("value", ["/etc/hostname", {"image": "http://127.0.0.1:9/a.jpg"}, np.zeros((4, 4, 3)), None])
def test_preprocess__opens_nothing(value: object) -> None:
    with pytest.raises(ValueError, match="PIL image"):
        encoder_of("squeezenet1_1").preprocess([value])


@pytest.mark.parametrize(
    ("name", "layers"), [("squeezenet1_1", 1), ("resnet18", 2), ("mnasnet0_5", 1), ("mobilenet_v3_small", 3)]
)
@torch.inference_mode()
def test_encoder__embeds_as_the_student_whose_weights_it_has(name: str, layers: int) -> None:
    student = build_student(name, embedding_dim=16, image_size=32, projection_layers=layers).eval()
    encoder = encoder_of(name, layers=layers)
    encoder.load_state_dict(dict(student.state_dict()))  # without versions, as safetensors has them
    encoder.eval()
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = student(Normalize(Preprocessing(image_size=32), torch.device("cpu"))(pixels))
    given = encoder({"pixel_values": pixels})["sentence_embedding"]
    torch.testing.assert_close(given, wanted, atol=1e-5, rtol=1e-5)


FAMILIES = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "swin_t",
    "swin_v2_t",
    "vgg11",
    "vit_b_32",
    "wide_resnet50_2",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_encoder__has_the_keys_of_every_family(name: str) -> None:
    size = 224 if name.startswith(("maxvit", "inception")) else 64
    student = build_student(name, embedding_dim=16, image_size=size)
    assert encoder_of(name, image_size=size).state_dict().keys() == student.state_dict().keys()


def test_encoder__refuses_files_of_a_newer_kind_and_unknown_backbones() -> None:
    with pytest.raises(ValueError, match="format 2 or older"):
        ProtoRKDImageEncoder(
            backbone_name="resnet18", embedding_dim=4, projection_layers=1, image_size=32, mean=[0], std=[1], format=3
        )
    with pytest.raises(ValueError, match="no-such-net"):
        encoder_of("no-such-net")


@pytest.fixture
def nothing_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **_: object) -> None:
        raise AssertionError(f"opened {args}")

    monkeypatch.setattr(Image, "open", refuse)
    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_router__takes_every_text_for_a_caption(
    exported_session: Exported, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "red.jpg"
    noise("RGB").save(path)
    model = load_model(exported_session.folder, device="cpu")
    request.getfixturevalue("nothing_opened")
    texts = [str(path), "http://127.0.0.1:9/red.jpg", "data:image/png;base64,AAAA", "https://youtu.be/red"]
    for text in texts:
        assert model.encode(text).shape == (16,)  # alone,
        assert model.encode([text, "red circle"]).shape == (2, 16)  # and beside others
    assert np.array_equal(model.encode(["red circle", *texts])[0], model.encode("red circle"))


def test_router__refuses_what_is_mixed_or_forced(exported_session: Exported) -> None:
    model = load_model(exported_session.folder, device="cpu")
    with pytest.raises(ValueError, match="Encode them apart"):
        model.encode([noise("RGB"), "red circle"])
    with pytest.raises(ValueError, match="must be 'text'"):
        model.encode(["/etc/hostname"], modality="image")
    with pytest.raises(ValueError, match="PIL image"):
        model.encode([{"image": "/etc/hostname"}])
