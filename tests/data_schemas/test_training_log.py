"""The log of a training: lines that a kill has torn, and numbers that are none."""

from data_schemas.training_log import curve_of, read_training_log


def test_log__is_read_without_torn_lines_and_null() -> None:
    data = (
        b'{"step": 50, "epoch": 1.25, "loss": 3.5, "lr": 0.001}\n'
        b'{"step": 80, "epoch": 2.0, "validation/mean_recall": 12.5}\n'
        b'{"step": 100, "epoch": 2.5, "loss": null}\n'
        b'{"step": 150, "epoch": 3.75, "loss": 2.5, "note": "text", "flag": true}\n'
        b'[1, 2]\n{"step": 200, "epoch": 5.0, "lo'
    )
    lines = read_training_log(data)
    assert len(lines) == 4
    assert lines[3] == {"step": 150, "epoch": 3.75, "loss": 2.5}
    assert curve_of(lines, "loss") == [(1.25, 3.5), (3.75, 2.5)]
    assert curve_of(lines, "validation/mean_recall") == [(2.0, 12.5)]
    assert curve_of(lines, "other") == []
    assert read_training_log(b"\xff\n") == []
