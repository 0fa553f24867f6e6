"""The stages: each one a folder whose ``stage.py`` is read first."""

from stages.encode_teacher.stage import STAGE as ENCODE_TEACHER

STAGES = (ENCODE_TEACHER,)
