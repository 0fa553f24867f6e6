"""The prompts that class names are put into."""

import importlib.util
import runpy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError

TEMPLATES: tuple[str, ...] = (
    "{}",
    "a photo of a {}",
    "a picture of the {}",
    "an image that shows a {}",
    "a {} seen from close by",
    "a {} seen from far away",
    "a small, blurred photo of a {}",
    "there is a {} in the picture",
)

SET_TEMPLATES: dict[str, tuple[str, ...]] = {
    "birdsnap": ("{}", "a photo of a {}, a bird", "a {} on a branch", "the bird in this picture is a {}"),
    "country211": ("{}", "a photo taken in {}", "a picture from a journey through {}", "a scene of daily life in {}"),
    "flowers102": ("{}", "a photo of a {}, a flower", "a {} in bloom", "the flower in this picture is a {}"),
    "gtsrb": ("{}", "a traffic sign: {}", "a photo of a road sign that means {}", "the sign by the road says {}"),
    "stanford_cars": ("{}", "a photo of a {}, a car", "a parked {}", "the car in this picture is a {}"),
    "ucf101": ("{}", "a photo of a person: {}", "somebody is seen during {}", "a frame of a video about {}"),
    "dtd": ("{}", "a {} texture", "a photo of a {} surface", "the material in this picture looks {}"),
    "eurosat": ("{}", "a satellite image of {}", "{} seen from space", "an aerial view that shows {}"),
    "fgvc_aircraft": ("{}", "a photo of a {}, an aircraft", "a {} at an airport", "the plane in this picture is a {}"),
    "food101": ("{}", "a photo of {}, a dish", "a plate of {}", "the food in this picture is {}"),
    "mnist": ("{}", "the digit {}", "a handwritten {}", "an image of the number {}"),
    "oxford_iiit_pet": ("{}", "a photo of a {}, a pet", "a {} at home", "the animal in this picture is a {}"),
    "rendered_sst2": ("{}", "a {} opinion of a film", "the review is {}", "somebody writes {} words about a film"),
    "sun397": ("{}", "a photo of a {}", "a place: {}", "the scene in this picture is a {}"),
}
"""Templates of the sets whose classes need other words around them; all others use `TEMPLATES`."""

PROMPTS = ("own", "open-clip")


def templates_for(set_name: str, *, prompts: str = "own") -> tuple[str, ...]:
    """Choose the prompt templates of a set.

    Args:
        set_name: Name of the set; one without templates of its own gets `TEMPLATES`.
        prompts: "own" for this project's words; "open-clip" for OpenAI's 80 templates for ImageNet, which open_clip
            brings and which then serve every set.

    Raises:
        ProtoRKDError: the prompts are unknown, or open_clip is not installed.
    """
    if prompts not in PROMPTS:
        raise ProtoRKDError(f"--prompts must be one of {', '.join(PROMPTS)}; got {prompts!r}.")
    if prompts == "open-clip":
        return tuple(template("{}") for template in open_clip_metadata()["OPENAI_IMAGENET_TEMPLATES"])
    return SET_TEMPLATES.get(set_name, TEMPLATES)


def open_clip_metadata() -> dict[str, Any]:
    """Read what open_clip's module ``zero_shot_metadata`` defines, without the slow import of its package.

    Raises:
        ProtoRKDError: open_clip is not installed.
    """
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ProtoRKDError(
            "OpenCLIP's prompts and class names must be installed to be used; got no open_clip. Run "
            "pip install 'protorkd[open-clip]'."
        )
    return runpy.run_path(str(Path(spec.origin).with_name("zero_shot_metadata.py")))


def class_prompts(class_names: Iterable[str], templates: Sequence[str]) -> tuple[str, ...]:
    """List the prompts of classes: of each class one by each template.

    Raises:
        ProtoRKDError: a template has no ``{}``.
    """
    return tuple(fill(template, name) for name in class_names for template in templates)


def fill(template: str, class_name: str) -> str:
    """Put a class name into a prompt template, wherever ``{}`` stands; all else stays as written.

    Raises:
        ProtoRKDError: the template has no ``{}``.

    Example:
        >>> fill("a photo of a {}", "jet plane")
        'a photo of a jet plane'
    """
    if "{}" not in template:
        raise ProtoRKDError(
            f"--template must hold {{}} where the class name goes; got {template!r}. "
            'Write it like --template "a photo of a {}".'
        )
    return template.replace("{}", class_name)
