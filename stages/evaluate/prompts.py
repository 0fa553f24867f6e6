"""Class names and the prompts that they are put into."""

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


def class_name_from_folder(folder_name: str) -> str:
    """Read a class name from its folder's name.

    Example:
        >>> class_name_from_folder("jet_plane")
        'jet plane'
    """
    return " ".join(folder_name.replace("_", " ").split())
