"""The student as this stage trains it; stages that load it build it from the same code."""

from stages.components.student.student import build_student

__all__ = ["build_student"]
