"""How a teacher embeds a caption: the options that encoding and evaluation share."""

from dataclasses import dataclass, fields
from typing import Any

from pipeline.options.declaration import NOT_NEGATIVE, option

PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class EncodingOptions:
    """With a teacher's identity, this settles the embedding of a caption."""

    max_tokens: int = option(
        0, help="Longest caption in tokens; the rest is cut off. 0: the teacher's own limit.", check=NOT_NEGATIVE
    )
    prompt: str = option("", help="Text put before every caption, for teachers that were trained with one.")
    truncate_dim: int = option(0, help="Keep the first so many dimensions of an embedding. 0: all.", check=NOT_NEGATIVE)
    embedding_dtype: str = option(
        "float16", help="Numbers that are stored; float16 halves disk and memory.", choices=("float16", "float32")
    )
    # Settled: "auto" is known to encode-teacher alone, and what a record does not say means fp32.
    teacher_precision: str = option("fp32", help="Numbers that the teacher computes with.", choices=PRECISIONS)

    @classmethod
    def of(cls, values: Any) -> "EncodingOptions":
        """Take the recipe out of a stage's parameters, or out of a record's.

        A record from before an option was there means the option's default.
        """
        values = values if isinstance(values, dict) else vars(values)
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})

    def as_dict(self) -> dict[str, Any]:
        """By name, as records and student.json hold it."""
        return {field.name: getattr(self, field.name) for field in fields(EncodingOptions)}
