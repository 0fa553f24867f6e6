"""What the student of a frozen backbone says of it, and which artifacts it keeps."""

import torch

from data_schemas.images.backbone_checkpoint import BackboneConfig
from data_schemas.images.image_features import FeaturesConfig
from data_schemas.images.student_checkpoint import HeadConfig, Preprocessing, StudentConfig, TeacherRecord
from stages.components.compute.distributed import Ranks
from stages.distill.build_features import CachedFeatures, make_head_student, with_features
from stages.distill.data.feature_statistics import FeatureStatistics
from stages.distill.data.targets import EmbeddingTable
from stages.distill.options import DistillParams

CPU = torch.device("cpu")
BACKBONE = BackboneConfig(
    name="hf:someone/eyes",
    feature_dim=5,
    preprocessing=Preprocessing(image_size=32, mean=(0.5, 0.5, 0.5), resize_size=36),
    pooling="cls+mean",
    architecture={"model_type": "vit"},
)
PLAIN = StudentConfig(
    backbone="",
    embedding_dim=3,
    projection_layers=1,
    preprocessing=Preprocessing(image_size=224),
    teacher=TeacherRecord("t" * 64, 3, {}),
    losses={"infonce": 1.0},
)


def cached(*, backbone: BackboneConfig | None = BACKBONE) -> CachedFeatures:
    config = FeaturesConfig(backbone, "b" * 64 if backbone else "", "fp32" if backbone else "")
    statistics = FeatureStatistics(torch.arange(5.0), torch.tensor([0.0, 1, 2, 3, 4]))
    return CachedFeatures(EmbeddingTable(torch.zeros(4, 5), CPU), config, statistics, "f" * 64)


def test_with_features__describes_the_backbone_and_the_head() -> None:
    params = DistillParams(head="mlp", head_dropout=0.2)
    config = with_features(PLAIN, params, cached())
    assert (config.backbone, config.backbone_digest) == ("hf:someone/eyes", "b" * 64)
    assert (config.pooling, config.architecture) == ("cls+mean", {"model_type": "vit"})
    assert config.head == HeadConfig("mlp", width=5, dropout=0.2)  # as wide as the features
    assert cached().preprocessing == BACKBONE.preprocessing
    assert cached().digests == ("f" * 64, "b" * 64)


def test_with_features__names_no_backbone_for_vectors_of_another_tool() -> None:
    features = cached(backbone=None)
    config = with_features(PLAIN, DistillParams(), features)
    assert (config.backbone, config.backbone_digest, config.architecture) == ("", "", None)
    assert config.head == HeadConfig("linear")
    assert features.preprocessing.image_size == 0
    assert features.digests == ("f" * 64,)


def test_make_head_student__takes_features_and_has_the_head_alone() -> None:
    student = make_head_student(DistillParams(projection_dim=7), cached(), teacher_dim=3, device=CPU, ranks=Ranks())
    assert student(torch.zeros(2, 5)).shape == (2, 7)
    assert all(name.startswith("head.") for name in student.state_dict())
    assert student.state_dict()["head.feature_std"].tolist() == [1, 1, 2, 3, 4]
    assert torch.equal(student.features(torch.ones(2, 5)), torch.ones(2, 5))
