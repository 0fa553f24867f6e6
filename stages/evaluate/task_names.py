"""The tasks by name: which belong together on the command line, and what each needs."""

RETRIEVAL_TASKS = ("retrieval", "geometry", "neighbourhoods")
CLASS_TASKS = ("zero_shot", "knn", "knn_backbone", "linear_probe", "linear_probe_backbone", "clustering")
STS_TASKS = ("sts",)

TASK_GROUPS = {
    "retrieval": ("retrieval",),
    "zero-shot": ("zero_shot",),
    "knn": ("knn", "knn_backbone"),
    "linear-probe": ("linear_probe", "linear_probe_backbone"),
    "analysis": ("geometry", "neighbourhoods", "clustering", "sts"),
}
"""What ``--task`` takes, and the tasks that it stands for."""

OPTION_TASKS = {
    "zero_shot": ("zero_shot", "clustering"),
    "knn": ("knn", "knn_backbone", "clustering"),
    "linear_probe": ("linear_probe", "linear_probe_backbone", "clustering"),
}
"""What the sets of an option are for."""

NEED_TRAIN = frozenset({"knn", "knn_backbone", "linear_probe", "linear_probe_backbone"})
NEED_TEACHER = frozenset({*RETRIEVAL_TASKS, *STS_TASKS, "zero_shot"})


def wanted_tasks(groups: tuple[str, ...]) -> frozenset[str]:
    """The tasks of these groups; without groups, all."""
    return frozenset(task for group in groups or TASK_GROUPS for task in TASK_GROUPS[group])


def choose(tasks: tuple[str, ...], wanted: frozenset[str]) -> tuple[str, ...]:
    """Those of the tasks that are wanted, in their order."""
    return tuple(task for task in tasks if task in wanted)
