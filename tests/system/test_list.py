"""protorkd list: what it names is what options take."""

import json
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from cli import cli
from stages.components.backbones.registry import find_family
from stages.distill.objectives import OBJECTIVES
from stages.distill.presets import PRESETS
from stages.evaluate.sets.datasets import KNOWN_SETS


def listed(*words: str) -> dict[str, Any]:
    result = CliRunner().invoke(cli, ["list", *words, "--json"])
    assert result.exit_code == 0, result.output
    groups: dict[str, Any] = json.loads(result.stdout)
    return groups


def test_list_students__names_every_family_and_what_it_finds() -> None:
    groups = listed("students")
    assert list(groups) == ["torchvision", "timm", "hf", "open-clip"]
    for name in ("torchvision", "timm"):
        for each in list(groups[name]["names"])[::100]:
            prefix = "" if name == "torchvision" else "timm:"
            assert find_family(prefix + each)[1] == each
    assert {"clip", "siglip", "dinov2", "dinov3_vit", "vit"} <= set(groups["hf"]["names"])


def test_list_students__says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    groups = listed("students", "resnet18")
    assert groups["timm"] == {
        "usage": "timm:NAME[.TAG] or timm:FOLDER",
        "install": "pip install 'protorkd[timm]'",
        "names": {},
    }
    assert groups["open-clip"]["install"] == "pip install 'protorkd[open-clip]'"
    assert list(groups["torchvision"]["names"]) == ["resnet18"]


def test_list_objectives__names_each_once_with_its_options() -> None:
    groups = listed("objectives")
    names = [name for group in groups.values() for name in group["names"]]
    assert sorted(names) == sorted(OBJECTIVES)
    assert "queue-size" in groups["looking at the whole cache, if told to"]["names"]["seed"]
    assert "proto-rkd" in groups["relating to prototypes"]["names"]


def test_list_presets__says_when_each_is_taken() -> None:
    [group] = listed("presets").values()
    assert group["names"] == {name: preset.summary for name, preset in PRESETS.sets.items()}


def test_list_sets__names_those_that_are_known() -> None:
    groups = listed("sets")
    assert set(groups["images in classes"]["names"]) == set(KNOWN_SETS)
    assert {"coco", "karpathy", "flickr30k"} <= set(groups["images with captions"]["names"])
