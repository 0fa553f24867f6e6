"""The keys under which each stage's inputs are hashed: another key is another fingerprint for what stands in stores."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

import pytest

from pipeline.sources import hashed_inputs
from pipeline.stage import AnyStage, Input
from stages import STAGES
from stages.components.embeddings.neighbours.stage import NeighboursSources
from stages.distill.options import DistillSources
from stages.draw_scenes.stage import DrawSources
from stages.embed.options import EmbedSources
from stages.encode_images.options import EncodeImagesSources
from stages.encode_teacher.options import EncodeSources
from stages.evaluate.embeddings import cached_embeddings
from stages.evaluate.jobs import job_artifact
from stages.evaluate.overlap import perceptual_hash
from stages.evaluate.sources import EvaluateSources
from stages.export.options import ExportSources
from stages.index.options import IndexSources
from stages.pack.options import PackSources
from stages.prototypes.options import PrototypesSources
from stages.report.options import ReportSources

SETS = {"sets": ("retrieval NAME", "classes NAME", "sts NAME"), "unread": ("unread NAME",)}

KEYS: Mapping[type[Any], list[str]] = {
    EncodeSources: ["manifest", "teacher"],
    EncodeImagesSources: ["backbone", "vectors", "images", "paths"],
    PackSources: ["pictures", "paths"],
    PrototypesSources: ["embeddings"],
    NeighboursSources: ["embeddings"],
    ReportSources: ["embeddings", "features", "prototypes", "queries", "teacher", "images"],
    DistillSources: [
        "embeddings",
        "images",
        "init_from",
        "prototypes",
        "architecture",
        "pretrained",
        "features",
        "from_student",
    ],
    EvaluateSources: [
        "student",
        *SETS["sets"],
        *SETS["unread"],
        "teacher",
        "query prompt",
        "absent sets",
        "training pictures",
        "image_vectors",
        "calibration",
    ],
    ExportSources: ["student", "weights", "teacher", "query prompt", "evaluation", "lineage", "code", "calibration"],
    EmbedSources: ["student", "pictures", "paths", "backbone", "calibration"],
    IndexSources: ["rows", "calibration"],
    DrawSources: [],
    cached_embeddings._ImageSources: ["student", "images"],
    cached_embeddings._CaptionSources: ["captions", "teacher"],
    job_artifact._Sources: ["set", "student", "teacher", "image_vectors", "calibration"],
    perceptual_hash._Sources: ["images"],
}


@pytest.mark.parametrize(("sources", "keys"), KEYS.items(), ids=lambda value: getattr(value, "__qualname__", ""))
def test_hashed_inputs__of_every_stage_stand_under_these_keys(sources: type[Any], keys: list[str]) -> None:
    one = Input("0", value=None)
    values = {each.name: dict.fromkeys(SETS[each.name], one) if each.name in SETS else one for each in fields(sources)}
    assert list(hashed_inputs(sources(**values))) == keys


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_identify__of_every_stage_gives_sources_whose_keys_are_pinned(stage: AnyStage) -> None:
    assert get_type_hints(stage.identify)["return"] in KEYS
