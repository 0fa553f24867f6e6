"""Groups of names, as text and as JSON."""

import json

import pytest

from data_schemas.errors import ProtoRKDError
from pipeline.commands.listing import NameGroup, show_groups

GROUPS = [
    NameGroup("plain", "NAME", {"one": "", "two": ""}),
    NameGroup("told", "x:NAME", {"three": "What it is."}, install="pip install x"),
    NameGroup("many", "y:NAME", {f"number{index}": "" for index in range(200)}),
]


def test_show_groups__prints_each_group_with_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    show_groups(GROUPS, word="", as_json=False)
    shown = capsys.readouterr().out
    assert "plain: NAME\n  one, two\n" in shown
    assert "told: x:NAME -- not installed: pip install x\n  three  What it is.\n" in shown
    assert "many: y:NAME\n  200 names, such as number0, number1, number2; a word after the command" in shown


def test_show_groups__chooses_by_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    show_groups(GROUPS, word="NUMBER19", as_json=False)
    shown = capsys.readouterr().out
    assert "plain" not in shown
    assert shown.count("number19") == 11
    with pytest.raises(ProtoRKDError, match="WORD must be part of a name; got 'nine', which none has"):
        show_groups(GROUPS, word="nine", as_json=False)


def test_show_groups__prints_all_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    show_groups(GROUPS, word="", as_json=True)
    listed = json.loads(capsys.readouterr().out)
    assert listed["told"] == {"usage": "x:NAME", "install": "pip install x", "names": {"three": "What it is."}}
    assert len(listed["many"]["names"]) == 200
