"""Names of students and objectives for a shell to complete, without torch, which takes longer than a user waits."""

import ast
from pathlib import Path


def student_names() -> list[str]:
    """Name torchvision's classification models and the wide ResNets; timm, which knows its own, takes seconds."""
    from stages.components.backbones.torchvision_family import TorchvisionFamily

    return TorchvisionFamily().names()


def objective_names() -> list[str]:
    """Name the keys of ``OBJECTIVES`` as they stand in its source."""
    source = (Path(__file__).parent / "objectives" / "__init__.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict) and _is_objectives(node.target):
            return [ast.literal_eval(key) for key in node.value.keys if key is not None]
    return []


def _is_objectives(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) and target.id == "OBJECTIVES"
