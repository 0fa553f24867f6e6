"""Students of a frozen backbone: their weights are a head, and their backbone lies once in the store."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from backbones import make_tiny_backbone
from frozen_students import EVERY_HEAD, head_tensors, make_frozen_student
from safetensors.torch import load_file
from workbench import Pairs

import protorkd
from data_schemas.errors import ProtoRKDError
from data_schemas.images.backbone_checkpoint import WEIGHTS_NAME as BACKBONE_WEIGHTS
from data_schemas.images.student_checkpoint import WEIGHTS_NAME, HeadConfig, StudentConfig
from pipeline.store.store import Store
from stages.components.backbones.frozen import load_backbone
from stages.components.images.lazy_image import open_lazily
from stages.components.images.transforms import EvalTransform, Normalize
from stages.components.student.checkpoints import find_checkpoint
from stages.components.student.heads import build_feature_head
from stages.components.student.weights import load_student

CPU = torch.device("cpu")


@pytest.fixture
def opened(encoded: Pairs, store: Path) -> Store:
    return Store(store)


@pytest.mark.parametrize("head", EVERY_HEAD, ids=lambda head: head.kind)
def test_load_student__puts_the_head_on_the_backbone(head: HeadConfig, opened: Store, encoded: Pairs) -> None:
    backbone = make_tiny_backbone(opened)
    artifact = make_frozen_student(opened, backbone, head=head)
    network, described = load_backbone(backbone.path, device=CPU)
    alone = build_feature_head(head, feature_dim=described.feature_dim, embedding_dim=16).eval()
    tensors = head_tensors(head, feature_dim=described.feature_dim, seed=0)
    alone.load_state_dict({name.removeprefix("head."): tensor for name, tensor in tensors.items()})
    paths = [encoded.root / name for name in encoded.images[:3]]
    pixels = torch.stack([EvalTransform(described.preprocessing)(open_lazily(path)) for path in paths])
    with torch.inference_mode():
        wanted = alone(network(Normalize(described.preprocessing, CPU)(pixels)))
    given = protorkd.load_student(artifact.path, store=opened.root, device="cpu").encode(paths)
    np.testing.assert_allclose(given, wanted.numpy(), rtol=1e-5, atol=1e-6)
    assert set(load_file(artifact.path / WEIGHTS_NAME)) == set(tensors)  # and no weight of the backbone


@pytest.mark.parametrize("head", EVERY_HEAD, ids=lambda head: head.kind)
def test_load_student__takes_the_backbone_from_its_own_weights(head: HeadConfig, opened: Store, encoded: Pairs) -> None:
    backbone = make_tiny_backbone(opened)
    paths = [encoded.root / name for name in encoded.images[:3]]
    students = [make_frozen_student(opened, backbone, head=head, owns_backbone=owns) for owns in (False, True)]
    shared = protorkd.load_student(students[0].path, store=opened.root, device="cpu").encode(paths)
    shutil.rmtree(backbone.path)
    own = protorkd.load_student(students[1].path, store=opened.root, device="cpu").encode(paths)
    assert np.array_equal(own, shared)
    assert [StudentConfig.read(each.path).is_head_alone for each in students] == [True, False]


def test_load_student__finds_the_backbone_in_the_store_that_the_student_lies_in(
    opened: Store, encoded: Pairs, tmp_path: Path
) -> None:
    artifact = make_frozen_student(opened, make_tiny_backbone(opened))
    image = encoded.root / encoded.images[0]
    here = protorkd.load_student(artifact.path, store=opened.root, device="cpu").encode(image)
    elsewhere = protorkd.load_student(artifact.path, store=tmp_path / "other", device="cpu").encode(image)
    assert np.array_equal(here, elsewhere)


def test_load_student__names_the_command_that_makes_a_missing_backbone_again(opened: Store) -> None:
    backbone = make_tiny_backbone(opened)
    artifact = make_frozen_student(opened, backbone)
    shutil.rmtree(backbone.path)
    with pytest.raises(ProtoRKDError) as raised:
        protorkd.load_student(artifact.path, store=opened.root, device="cpu")
    message = str(raised.value)
    assert backbone.record.digest[:12] in message
    assert "encode-images --backbone timm:test_resnet --image-size 32" in message


def test_load_student__refuses_a_damaged_backbone(opened: Store) -> None:
    backbone = make_tiny_backbone(opened)
    artifact = make_frozen_student(opened, backbone)
    path = backbone.path / BACKBONE_WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ProtoRKDError, match=r"backbone\.safetensors must be as it was written"):
        protorkd.load_student(artifact.path, store=opened.root, device="cpu")


def test_load_student__of_another_tools_features_takes_vectors_alone(opened: Store) -> None:
    artifact = make_frozen_student(opened, None)
    with pytest.raises(ProtoRKDError, match="takes vectors of that tool alone"):
        protorkd.load_student(artifact.path, store=opened.root, device="cpu")


def test_load_student__refuses_a_head_of_another_kind(opened: Store) -> None:
    artifact = make_frozen_student(opened, make_tiny_backbone(opened))
    config = StudentConfig.read(artifact.path)
    object.__setattr__(config, "head", HeadConfig("mlp", 8))
    with pytest.raises(ProtoRKDError, match=r"must hold the weights of a timm:test_resnet student"):
        load_student(config, artifact.path / WEIGHTS_NAME, device=CPU)


def test_identity__tells_backbones_and_heads_apart(opened: Store) -> None:
    backbones = [make_tiny_backbone(opened, seed=seed) for seed in (0, 1)]
    artifacts = [make_frozen_student(opened, backbone) for backbone in backbones]
    students = [find_checkpoint(str(artifact.path), store=opened) for artifact in artifacts]
    assert students[0].sha256 == students[1].sha256  # of the same head
    assert students[0].identity != students[1].identity
    assert [student.pass_identity for student in students] == [backbone.record.digest for backbone in backbones]
