import logging

import pytest
import torch
from faiss_doubles import DAMAGES, damage_faiss, install_fake_faiss

from stages.components.compute.faiss_library import find_faiss, has_gpu, import_faiss


@pytest.mark.parametrize("damage", DAMAGES)
def test_import_faiss__raises_one_error_with_the_reason(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = damage_faiss(damage, monkeypatch)
    with pytest.raises(ImportError, match=f"^{reason}"):
        import_faiss()


@pytest.mark.parametrize("damage", DAMAGES)
def test_find_faiss__tells_once_why_there_is_none(
    damage: str, monkeypatch: pytest.MonkeyPatch, quiet_log: None, caplog: pytest.LogCaptureFixture
) -> None:
    reason = damage_faiss(damage, monkeypatch)
    with caplog.at_level(logging.INFO, logger="protorkd"):
        assert [find_faiss() for _ in range(3)] == [None] * 3
    (line,) = caplog.messages
    assert reason in line


def test_find_faiss__gives_the_library_and_says_nothing(quiet_log: None, caplog: pytest.LogCaptureFixture) -> None:
    faiss = pytest.importorskip("faiss")
    with caplog.at_level(logging.INFO, logger="protorkd"):
        assert find_faiss() is faiss
    assert not caplog.messages


@pytest.mark.parametrize(("device", "expected"), [("cuda", True), ("cuda:1", True), ("cuda:2", False), ("cpu", False)])
def test_has_gpu__looks_for_the_number_of_the_device(
    device: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install_fake_faiss(monkeypatch, num_gpus=2)
    assert has_gpu(fake, torch.device(device)) == expected
    assert fake.num_counts == (0 if device == "cpu" else 1)
