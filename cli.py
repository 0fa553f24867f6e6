"""The command line: one subcommand a stage, and the commands about artifacts."""

import sys

import click

from data_schemas.errors import ProtoRKDError
from pipeline.commands import gc, stage_command, status, verify, why_command
from stages import STAGES


class _Commands(click.Group):
    """Turns the project's own errors into a line on stderr and exit status 1."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except ProtoRKDError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands, context_settings={"max_content_width": 110})
@click.version_option(package_name="protorkd")
@click.pass_context
def cli(context: click.Context) -> None:
    """Give any text-embedding model eyes: distil an image student from cached caption embeddings.

    encode-teacher embeds every caption once, distill trains a student against the cache, evaluate measures it.
    Each stage runs once for each distinct request; run it again and it says "unchanged".
    """
    context.obj = tuple(stage.name for stage in STAGES if stage.keep)


@cli.group()
def why() -> None:
    """Say whether a stage would run, and because of which field, before any work is done."""


for _stage in STAGES:
    cli.add_command(stage_command(_stage))
    why.add_command(why_command(_stage))
for _command in (status, verify, gc):
    cli.add_command(_command)


def main() -> None:
    """Entry point of the console script."""
    cli(prog_name="protorkd")


if __name__ == "__main__":
    sys.exit(cli())
