"""Names of students and objectives for a shell to complete, without torch, which takes longer than a user waits."""

import ast
import importlib.util
import re
from pathlib import Path

_REGISTERED = re.compile(r"^@register_model\(\)\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
_WIDE_RESNETS = ("resnet50w2", "resnet50w4", "resnet50w5")


def student_names() -> list[str]:
    """Name torchvision's classification models, as its source registers them, and the wide ResNets."""
    found = importlib.util.find_spec("torchvision")
    places = (found.submodule_search_locations or []) if found else []
    files = [path for place in places for path in sorted((Path(place) / "models").glob("*.py"))]
    names = [name for path in files for name in _REGISTERED.findall(path.read_text(encoding="utf-8"))]
    return sorted([*names, *_WIDE_RESNETS])


def objective_names() -> list[str]:
    """Name the keys of ``OBJECTIVES`` as they stand in its source."""
    source = (Path(__file__).parent / "objectives" / "__init__.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict) and _is_objectives(node.target):
            return [ast.literal_eval(key) for key in node.value.keys if key is not None]
    return []


def _is_objectives(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) and target.id == "OBJECTIVES"
