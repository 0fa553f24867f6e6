"""The command line: one subcommand a stage, the commands about artifacts, and the demo."""

import errno
import os
import sys
from typing import Any

import click

from data_schemas.errors import ProtoRKDError, StopRequestedError
from data_schemas.images.student_checkpoint import WEIGHTS_NAME
from pipeline.commands.artifacts import gc, status, verify
from pipeline.commands.listing import NameGroup, listing_options, show_groups
from pipeline.commands.run import run
from pipeline.commands.stages import show_outcome, stage_command, why_command
from pipeline.commands.store_options import store_options
from pipeline.log import show_log
from pipeline.options.completion import completion
from pipeline.runner import StageOutcome, context_of, run_stage
from pipeline.signals import command_signals
from pipeline.store.store import Store
from pipeline.terminal import printable
from stages import STAGES
from stages.distill.options import DistillInputs, DistillParams
from stages.distill.presets import PRESETS
from stages.distill.stage import STAGE as DISTILL
from stages.draw_scenes.stage import COLOURS_NAME, WORDS_NAME, DrawInputs, DrawParams
from stages.draw_scenes.stage import STAGE as DRAW_SCENES
from stages.encode_images.options import EncodeImagesInputs, EncodeImagesParams
from stages.encode_images.stage import STAGE as ENCODE_IMAGES
from stages.encode_teacher.options import EncodeInputs, EncodeParams
from stages.encode_teacher.stage import STAGE as ENCODE_TEACHER
from stages.evaluate.compare.command import compare
from stages.evaluate.options import EvaluateInputs, EvaluateParams
from stages.evaluate.prompts_command import prompts
from stages.evaluate.runs.command import runs
from stages.evaluate.stage import STAGE as EVALUATE
from stages.gather_cc.command import gather_cc
from stages.search.command import search

_NO_PATHS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM)
_SHOWN_CHARS = 200
STOPPED_STATUS = 75
"""Exit status of a command that was asked to stop: EX_TEMPFAIL of sysexits.h, for the same command goes on."""


class _StoppedException(click.ClickException):
    """Ctrl-C or SIGTERM has stopped a command."""

    exit_code = STOPPED_STATUS


class _Commands(click.Group):
    """The group of all commands: turns our own errors, Ctrl-C and SIGTERM into a line on stderr and an exit status.

    That is 1 for an error, `STOPPED_STATUS` for a stop, and click's 2 for a mistake in what was typed. A path that the
    system will not even look at, which any option may name, is an error.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with command_signals():
            return super().main(*args, **kwargs)

    def invoke(self, context: click.Context) -> object:
        try:
            _check_current_folder()
            return super().invoke(context)
        except OSError as error:
            if error.errno not in _NO_PATHS or error.filename is None:
                raise
            path = printable(str(error.filename)[:_SHOWN_CHARS])
            raise click.ClickException(
                f"{path} must be a path that you can reach; {error.strerror}. Check it."
            ) from error
        except StopRequestedError as error:
            raise _StoppedException(printable(str(error))) from error
        except ProtoRKDError as error:
            raise click.ClickException(printable(str(error))) from error
        except click.ClickException as error:
            vars(error)["message"] = printable(error.message)
            raise
        except KeyboardInterrupt as error:
            raise _StoppedException(
                "Asked to stop, and did. Run the same command again: what was whole is kept."
            ) from error


def _check_current_folder() -> None:
    try:
        os.getcwd()  # noqa: PTH109 - a Path would do no more
    except FileNotFoundError as error:
        raise ProtoRKDError("The current folder must be there; it has been removed. Go to another (cd).") from error


@click.group(cls=_Commands, context_settings={"max_content_width": 110})
@click.version_option(package_name="protorkd")
@click.pass_context
def cli(context: click.Context) -> None:
    """Give any text-embedding model eyes: distil an image student from cached caption embeddings.

    encode-teacher embeds every caption once, distill trains a student against the cache, evaluate measures it.
    Each stage runs once for each distinct request; run it again and it says "unchanged".
    """
    context.obj = STAGES


@cli.group()
def why() -> None:
    """Say whether a stage would run, and because of which field, before any work is done."""


@cli.command(params=store_options())
def demo(store: Store) -> None:
    """Run all stages on scenes drawn from handwritten digits: no download, a few minutes on two cores."""
    show_log()
    context = context_of(store, stages=STAGES)

    def make(stage: Any, params: Any, inputs: Any) -> StageOutcome:
        return run_stage(stage, params=params, inputs=inputs, runtime=stage.runtime(), context=context)

    scenes = make(DRAW_SCENES, DrawParams(), DrawInputs()).artifact.path
    encoded = make(
        ENCODE_TEACHER,
        EncodeParams(),
        EncodeInputs(manifest=scenes / "train.tsv", teacher=str(scenes / WORDS_NAME)),
    )
    distilled = make(
        DISTILL,
        DistillParams(image_size=48, epochs=3, batch_size=24, lr=1.5e-3, warmup_steps=60),
        DistillInputs(embeddings=str(encoded.artifact.path)),
    )
    colours = str(scenes / COLOURS_NAME)

    def evaluate(student: StageOutcome) -> StageOutcome:
        return make(
            EVALUATE,
            EvaluateParams(template=("a {} digit", "a picture of a {} digit")),
            EvaluateInputs(
                student=str(student.artifact.path),
                retrieval=(f"scenes={scenes / 'test.tsv'}",),
                zero_shot=(colours,),
                knn=(colours,),
            ),
        )

    show_outcome(evaluate(distilled), page=EVALUATE.page)
    # The other road: a backbone that stays as it is sees every image once, and a head is trained in seconds.
    features = make(
        ENCODE_IMAGES,
        EncodeImagesParams(backbone="resnet18", image_size=48),
        EncodeImagesInputs(manifest=scenes / "train.tsv", init_from=distilled.artifact.path / WEIGHTS_NAME),
    )
    head = make(
        DISTILL,
        DistillParams(epochs=10, batch_size=256, lr=2e-3, warmup_steps=20),
        DistillInputs(embeddings=str(encoded.artifact.path), features=str(features.artifact.path)),
    )
    show_outcome(evaluate(head), page=EVALUATE.page)


@cli.group(name="list")
def list_names() -> None:
    """List names that options take: students, objectives, presets, sets; after them a WORD that the names must have."""


@list_names.command("students", params=listing_options("the backbones"))
def list_students(word: str, as_json: bool) -> None:
    """List the backbones of --student, by family, with what is installed."""
    from stages.components.backbones.registry import student_groups

    show_groups(student_groups(), word=word, as_json=as_json)


@list_names.command("presets", params=listing_options("the presets"))
def list_presets(word: str, as_json: bool) -> None:
    """List the presets of distill, with when each is taken; distill --preset NAME --show-config prints its values."""
    names = {name: preset.summary for name, preset in PRESETS.sets.items()}
    show_groups([NameGroup("sets of defaults", "--preset NAME", names)], word=word, as_json=as_json)


@list_names.command("objectives", params=listing_options("the objectives"))
def list_objectives(word: str, as_json: bool) -> None:
    """List the objectives of --loss, with their options."""
    from stages.distill.objectives import objective_groups

    show_groups(objective_groups(), word=word, as_json=as_json)


@list_names.command("sets", params=listing_options("the sets"))
def list_sets(word: str, as_json: bool) -> None:
    """List the sets that evaluate knows by name or form."""
    from stages.evaluate.sets.datasets.catalogue import set_groups

    show_groups(set_groups(), word=word, as_json=as_json)


for _stage in STAGES:
    cli.add_command(stage_command(_stage))
    why.add_command(why_command(_stage))
for _command in (gather_cc, run, prompts, runs, compare, search, status, verify, gc, completion):
    cli.add_command(_command)


def main() -> None:
    """Run the command line; the console script's entry point."""
    cli(prog_name="protorkd")


if __name__ == "__main__":
    sys.exit(cli())
