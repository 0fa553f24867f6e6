"""Measure each checkpoint, set and task once, and keep it as an artifact.

A job is an artifact of the internal stage `measurements`, named by the identity of the weights (their bytes and
preprocessing), the set, the teacher where the task needs it, and the settings of the task. So an evaluation that is
interrupted, that fails in one task, or that follows a distillation (`watch`) loses nothing: whoever asks for the same
job again gets its artifact. The evaluation itself is the report of its jobs. While one of them fails there is no
artifact of evaluate; report and page lie in its draft.
"""
