"""The student, as this stage trains it; the stages that read it share its making."""

from stages.components.student.student import build_student

__all__ = ["build_student"]
