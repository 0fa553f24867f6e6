"""What tables of results show of a student: what its log ended with."""

from pathlib import Path

from evaluations import make_student

from data_schemas.training_log import TRAINING_LOG
from stages.distill.overview import figures


def test_figures__are_the_last_of_the_log(tmp_path: Path) -> None:
    log = [
        {"step": 1, "epoch": 1.0, "loss": 4.0},
        {"step": 1, "epoch": 1.0, "validation/mean_recall": 5.0, "validation/text_to_image/recall@10": 9.0},
        {"step": 2, "epoch": 2.0, "loss": 3.0},
        {"step": 2, "epoch": 2.0, "validation/mean_recall": 7.0, "validation/images": 100.0},
    ]
    student = make_student(tmp_path / "store", "one", log=log)
    found = figures(student, lambda path: (student.path / path).read_bytes())
    assert {name: figure.value for name, figure in found.items()} == {
        "validation/mean_recall": 7.0,
        "validation/text_to_image/recall@10": 9.0,
        "training/loss": 3.0,
    }
    assert [name for name, figure in found.items() if figure.is_headline] == ["validation/mean_recall"]
    assert [figure.better for figure in found.values()] == ["higher", "higher", "lower"]


def test_figures__of_a_student_without_a_log_are_none(tmp_path: Path) -> None:
    student = make_student(tmp_path / "store", "one")
    assert TRAINING_LOG not in [file.path for file in student.record.files]
    assert figures(student, lambda path: (student.path / path).read_bytes()) == {}
