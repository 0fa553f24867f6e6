"""draw-scenes: draw a small data set to try everything on, without a download.

Takes:  nothing: the handwritten digits come with scikit-learn.
Does:   draws captioned scenes of coloured digits, and makes word vectors from the captions of the training scenes.
Gives:  train.tsv and test.tsv with images/, colours/train and colours/test (one folder a class), words.txt (a teacher).
"""

import csv
import io
from dataclasses import dataclass

from pipeline.options.declaration import NOT_NEGATIVE, POSITIVE, Check, option
from pipeline.stage import Context, Result, Stage
from pipeline.store.draft import Draft

WORDS_NAME = "words.txt"
COLOURS_NAME = "colours"
_IMAGES_PER_COLOUR = 40


@dataclass(frozen=True)
class DrawInputs:
    """The stage has no inputs."""


@dataclass(frozen=True)
class DrawSources:
    """Name no inputs: scenes are drawn from their parameters alone."""


@dataclass(frozen=True)
class DrawParams:
    """What changes the output."""

    train_scenes: int = option(2500, help="Scenes to train on.", check=POSITIVE)
    test_scenes: int = option(500, help="Scenes to test on, drawn from other handwriting.", check=POSITIVE)
    scene_size: int = option(
        64, help="Side of a scene, in pixels.", check=Check("be 32 or more", lambda size: size >= 32)
    )
    word_dim: int = option(64, help="Width of a word vector.", check=Check("be 8 or more", lambda dim: dim >= 8))
    scene_seed: int = option(0, help="Seed of everything that is drawn.", check=NOT_NEGATIVE)


@dataclass(frozen=True)
class DrawRuntime:
    """The stage has no runtime options."""


def draw(params: DrawParams, sources: DrawSources, out: Draft, runtime: DrawRuntime, context: Context) -> Result:
    """Draw the scenes, write their manifests, and make a teacher of their words."""
    from data_schemas.files import write_atomic
    from stages.draw_scenes.glyphs import Split
    from stages.draw_scenes.scenes import draw_scenes, write_colour_folders, write_scenes
    from stages.draw_scenes.word_vectors import format_glove, word_vectors

    out.clear()
    sizes: dict[Split, int] = {"train": params.train_scenes, "test": params.test_scenes}
    for split, num_scenes in sizes.items():
        scenes = draw_scenes(split=split, num_scenes=num_scenes, image_size=params.scene_size, seed=params.scene_seed)
        write_scenes(scenes, out.path, split=split)
    write_colour_folders(
        out.path, image_size=params.scene_size, seed=params.scene_seed, num_per_class=_IMAGES_PER_COLOUR
    )
    rows = csv.DictReader(io.StringIO((out.path / "train.tsv").read_text()), delimiter="\t", quoting=csv.QUOTE_NONE)
    vectors = word_vectors([row["title"] for row in rows], dim=params.word_dim)
    write_atomic(out.path / WORDS_NAME, format_glove(vectors))
    return Result(counts={"train_scenes": sizes["train"], "test_scenes": sizes["test"], "words": len(vectors)})


def identify(inputs: DrawInputs, params: DrawParams, context: Context) -> DrawSources:
    """Name no inputs: scenes are drawn from their parameters alone."""
    return DrawSources()


STAGE = Stage(
    name="draw-scenes",
    version=1,
    summary="Draw captioned scenes from handwritten digits, and a small teacher for them.",
    params=DrawParams,
    inputs=DrawInputs,
    runtime=DrawRuntime,
    identify=identify,
    run=draw,
)
