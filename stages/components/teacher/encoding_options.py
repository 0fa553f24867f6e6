"""Options of how a teacher embeds captions, shared by encoding and evaluation."""

from dataclasses import dataclass, fields
from typing import Any

from pipeline.options.declaration import NOT_NEGATIVE, option

PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class EncodingOptions:
    """The recipe of a caption's embedding, which it determines together with the teacher's identity."""

    max_tokens: int = option(
        0, help="Longest caption in tokens; the rest is cut off. 0: the teacher's own limit.", check=NOT_NEGATIVE
    )
    prompt: str = option("", help="Text put before every caption, for teachers that were trained with one.")
    truncate_dim: int = option(0, help="Keep the first so many dimensions of an embedding. 0: all.", check=NOT_NEGATIVE)
    embedding_dtype: str = option(
        "float16", help="Number format that is stored; float16 halves disk and memory.", choices=("float16", "float32")
    )
    # Never "auto", which only encode-teacher knows and resolves; a record without this option means fp32.
    teacher_precision: str = option("fp32", help="Number format of the teacher.", choices=PRECISIONS)

    @classmethod
    def of(cls, values: Any) -> "EncodingOptions":
        """Extract the recipe from a stage's parameters, or from those in a record.

        If a record is older than an option, the option's default holds.
        """
        values = values if isinstance(values, dict) else vars(values)
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})

    def as_dict(self) -> dict[str, Any]:
        """Return the options by name, as records and student.json hold them."""
        return {field.name: getattr(self, field.name) for field in fields(EncodingOptions)}
