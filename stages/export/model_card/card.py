"""Write the model card: README.md with the front matter that the model hub reads."""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from data_schemas.files import write_unsynced
from stages.export.model_card.figures import ChosenEvaluation, Figure
from stages.export.model_card.lineage import Lineage
from stages.export.requirements import requirements_of

if TYPE_CHECKING:
    from stages.export.options import ExportParams

CARD_NAME = "README.md"

_TEMPLATE = Path(__file__).with_name("card.md")
_MARKDOWN = re.compile(r"([\\`*_\[\]|#~$])")
_PLACE = "path/to/this/folder"
_HUB_TASKS = {"retrieval": "image-text-retrieval", "zero_shot": "zero-shot-image-classification"}


class _Written(str):
    """A string of Markdown that is not escaped again."""


def write_card(out: Path, params: "ExportParams", *, lineage: Lineage, evaluation: ChosenEvaluation | None) -> None:
    """Write ``README.md`` into an export.

    Args:
        out: Folder of the export.
        params: Formats, licence, names and languages.
        lineage: Origin of the model.
        evaluation: Evaluation with the figures to show; None shows none.
    """
    teacher, student = lineage["teacher"], lineage["student"]
    figures = evaluation.figures() if evaluation else []
    title = params.model_name or f"{student['backbone']} for {teacher['name'].rpartition('/')[2]}"
    environment = jinja2.Environment(  # noqa: S701 - it is Markdown, and `escape` sees every value
        finalize=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"words": _words, "number": _number, "interval": _interval, "plain": _plain}
    text = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        **lineage,
        title=title,
        place=_Written(params.model_name if "/" in params.model_name else _PLACE),
        recipe=teacher["recipe"],
        recipe_words=_recipe_words(teacher["recipe"]),
        preprocessing=student["preprocessing"],
        formats=params.format,
        calibrate=params.calibrate,
        with_text="sentence-transformers" in params.format,
        packages=_Written(" ".join([*requirements_of(student["backbone"]), "pillow"])),
        head=_head_words(student),
        figures=figures,
        overlaps=evaluation.overlaps() if evaluation else [],
        precision=evaluation.report["student"].get("precision", "fp32") if evaluation else "",
        counts=list(_counts(lineage)),
        objectives=", ".join(f"{name} (weight {weight:g})" for name, weight in student["losses"].items()),
        versions=", ".join(f"{name} {value}" for name, value in lineage["training"]["environment"].items()),
        license=params.license,
    )
    head = _front_matter(params, lineage=lineage, title=title, figures=figures)
    write_unsynced(out / CARD_NAME, f"---\n{head}\n---\n\n{_collapse_blank_lines(text)}".encode())


def escape(value: Any) -> str:
    """Escape a value, so that Markdown and HTML show it as text on one line."""
    if isinstance(value, _Written):
        return value
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in str(value)).split())
    return _MARKDOWN.sub(r"\\\1", html.escape(line, quote=False))


def _front_matter(params: "ExportParams", *, lineage: Lineage, title: str, figures: list[Figure]) -> str:
    """Return the metadata by which the hub lists a model, as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    with_text = "sentence-transformers" in params.format
    results = [
        EvalResult(
            task_type=_HUB_TASKS.get(figure.task_name, "image-classification"),
            task_name=figure.task,
            dataset_type=figure.set,
            dataset_name=figure.set,
            metric_type=figure.measure,
            metric_name=figure.measure,
            metric_value=_rounded(figure.value),
            metric_args={
                "num_images": figure.num_images,
                **({"interval_95": [_rounded(end) for end in figure.interval]} if figure.interval else {}),
                **({"chance": _rounded(figure.chance)} if figure.chance is not None else {}),
            },
        )
        for figure in figures
    ]
    data = ModelCardData(
        base_model=lineage["teacher"]["hub"] or None,
        eval_results=results or None,
        language=list(params.language) or None,
        library_name="sentence-transformers" if with_text else "pytorch" if "torch" in params.format else "onnx",
        license=params.license.lower() or None,
        metrics=sorted({figure.measure.rpartition("/")[2] for figure in figures}) or None,
        model_name=title,
        pipeline_tag="sentence-similarity" if with_text else "image-feature-extraction",
        tags=[
            *(["sentence-transformers", "feature-extraction"] if with_text else []),
            "image-feature-extraction",
            "multimodal",
            "knowledge-distillation",
            "protorkd",
            *(["onnx"] if "onnx" in params.format else []),
        ],
    )
    return str(data.to_yaml(line_break="\n")).strip()


def _head_words(student: dict[str, Any]) -> str:
    """Describe what lies behind the backbone."""
    head = student["head"]
    if head is None:
        return f"{student['projection_layers']} linear layer(s) behind it"
    width = f", width {head['width']}" if head["width"] else ""
    digest = student["backbone_digest"]
    backbone = f"frozen, digest {digest}" if digest else "fine-tuned"
    return f"{backbone}; head on its standardised features: {head['kind']}{width}"


def _recipe_words(recipe: dict[str, Any]) -> str:
    return ", ".join(
        [
            f"at most {recipe['max_tokens']} tokens" if recipe["max_tokens"] else "the teacher's own limit of tokens",
            f"the prompt {recipe['prompt']!r}" if recipe["prompt"] else "no prompt but the teacher's own",
            f"the first {recipe['truncate_dim']} dimensions" if recipe["truncate_dim"] else "all dimensions",
            f"computed in {recipe['teacher_precision']}",
            f"stored as {recipe['embedding_dtype']}",
        ]
    )


def _counts(lineage: Lineage) -> Iterator[tuple[str, Any]]:
    """Yield the counts of captions and images that were made and dropped, with one entry for each reason."""
    for what in ("captions", "training"):
        for name, value in lineage[what].get("counts", {}).items():
            numbers = value if isinstance(value, dict) else {"": value}
            for reason, number in numbers.items():
                yield f"{what}: {_words(name)}{reason and ', '}{reason}", number


def _words(name: str) -> str:
    return name.replace("/", ", ").replace("_", " ")


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return (
        {True: "yes", False: "no", "": "none"}.get(value, str(value)) if isinstance(value, bool | str) else str(value)
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _interval(figure: Figure) -> str:
    return "" if figure.interval is None else f"{figure.interval[0]:.2f} to {figure.interval[1]:.2f}"


def _rounded(value: float) -> float:
    return round(float(value), 3)


def _collapse_blank_lines(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
