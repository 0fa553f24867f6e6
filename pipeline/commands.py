"""Click commands made from stages, and the commands about artifacts: status, why, verify, gc."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from data_schemas.artifact_record import RECORD_NAME
from data_schemas.errors import PartialError, ProtoRKDError
from data_schemas.files import list_files
from pipeline.draft import digests_in_use, is_held
from pipeline.fingerprint import digest_of_files, fingerprint
from pipeline.log import show_log
from pipeline.options import click_options, take
from pipeline.peers import is_first_process
from pipeline.plan import plan_stage
from pipeline.remote_upkeep import (
    Abandoned,
    abandoned_files,
    is_here,
    remark,
    remote_problems,
    remote_size,
    remove_abandoned,
    repair_everywhere,
    set_any_record_aside,
)
from pipeline.runner import Outcome, context_of, run_stage
from pipeline.stage import Context, Stage
from pipeline.store import Artifact, Store
from pipeline.store_options import store_options

AnyStage = Stage[Any, Any, Any]


def stage_command(stage: AnyStage) -> click.Command:
    """Make a stage's subcommand from its declaration."""

    def run(store: Store, force: bool, as_json: bool, **values: Any) -> None:
        show_log(quiet=not is_first_process())
        options = _options(stage, values)
        if stage.join is None and not is_first_process():
            return
        context = context_of(store, force=force, stages=_stages())
        try:
            outcome = run_stage(stage, **options, context=context)
        except PartialError as error:
            if as_json and is_first_process():
                click.echo(json.dumps({"stage": stage.name, "status": "failed", **error.found}, ensure_ascii=False))
            raise
        if not is_first_process():
            return
        if as_json:
            click.echo(json.dumps(outcome.as_json(), ensure_ascii=False))
        else:
            show_outcome(outcome, page=stage.page)

    force = click.Option(["--force"], is_flag=True, help="Run again though the artifact is there.")
    as_json = click.Option(["--json", "as_json"], is_flag=True, help="Print the outcome as one JSON object on stdout.")
    return _command(stage, run, [*store_options(), force, as_json])


def why_command(stage: AnyStage) -> click.Command:
    """Make the command that says, without running it, whether a stage would run and because of which field."""

    def why(store: Store, **values: Any) -> None:
        options = _options(stage, values)
        options.pop("runtime")
        plan = plan_stage(stage, **options, context=context_of(store, stages=_stages()))
        if plan.artifact is not None:
            click.echo(f"{stage.name} would not run: unchanged, {plan.artifact.path} has it.")
            return
        click.echo(f"{stage.name} would run as {plan.fingerprint[:12]}: {plan.reason()}")

    return _command(stage, why, store_options())


def show_outcome(outcome: Outcome, *, page: str = "") -> None:
    """Print what a stage made, for people, and which of its files to open."""
    record = outcome.artifact.record
    for name, value in record.counts.items():
        click.echo(f"  {name.replace('_', ' '):<32} {_brief(value)}")
    for name, value in record.metrics.items():
        click.echo(f"  {name:<48} {value:8.2f}")
    click.echo(f"{record.stage} {outcome.status}: {outcome.artifact.path}")
    if page:
        click.echo(f"open {outcome.artifact.path / page}")


@click.command(params=store_options())
def status(store: Store) -> None:
    """List the artifacts: what exists, from what, how big; those that stages made on their way are summed up."""
    artifacts, unreadable = store.survey()
    names = {artifact.record.digest: artifact.name for artifact in artifacts}
    if not artifacts and not unreadable:
        click.echo(f"{store} holds no artifacts.")
    commands = {stage.name for stage in _stages()}
    inner: dict[str, list[int]] = {}
    for artifact in artifacts:
        record = artifact.record
        damage = record.problems(artifact.path, read=False) if is_here(store, artifact) else {}
        if commands and record.stage not in commands and not damage:
            inner.setdefault(record.stage, []).append(record.size)
            continue
        sources = [
            names.get(entry.digest) or f"{name} {entry.location or entry.digest[:12]}"
            for name, entry in record.inputs.items()
        ]
        state = f"  NOT WHOLE: {', '.join(damage)}" if damage else remark(store, artifact)
        click.echo(
            f"{artifact.name}  {human_size(record.size)}  {record.created[:19]}  from {'; '.join(sources)}{state}"
        )
    for stage_name, sizes in inner.items():
        click.echo(f"{stage_name}  {len(sizes)} made on the way  {human_size(sum(sizes))}")
    for path in unreadable:
        click.echo(f"{path.parent.name} {path.name[:12]}  {human_size(_size(path))}  NOT WHOLE: {RECORD_NAME}")
    for path in store.leftovers():
        click.echo(
            f"{path.parent.name} {_leftover_name(path)}  {human_size(_size(path))}  {_leftover_state(store, path)}"
        )


@click.command(params=store_options())
@click.argument("references", nargs=-1)
@click.option("--repair", "mend", is_flag=True, help="Set bad files aside, and make anew what they held.")
def verify(store: Store, references: tuple[str, ...], mend: bool) -> None:
    """Read every byte of the artifacts again and prove that they are what their records say.

    REFERENCES are fingerprints or their beginnings; without any, all artifacts are read.
    """
    store = store.absolute()
    context = context_of(store, stages=_stages())
    chosen = _chosen(store, references)
    unreadable = {} if references else store.unreadable()
    for folder, error in unreadable.items():
        click.echo(f"{folder.parent.name} {folder.name[:12]}: NOT WHOLE\n  {error}")
        if mend:
            click.echo(f"  set aside as {set_any_record_aside(folder, store=store)}")
    num_bad = len(unreadable)
    for artifact in chosen:
        here = artifact_problems(artifact) if is_here(store, artifact) else {}
        there = remote_problems(store, artifact)
        click.echo(f"{artifact.name}: {'NOT WHOLE' if here or there else 'whole'}")
        for path, problem in here.items():
            click.echo(f"  {artifact.path / path}: {problem}")
        for path, problem in there.items():
            click.echo(f"  {store}/{artifact.record.stage}/{artifact.record.fingerprint}, {path}: {problem}")
        damaged = bool(here or there)
        mended = damaged and mend and _mend(artifact, here, there, context)
        num_bad += damaged and not mended
    if num_bad:
        raise ProtoRKDError(
            f"Every artifact must be as it was written; {num_bad} of {len(chosen) + len(unreadable)} are not. "
            + ("" if mend else "Run their stages again with the same options, and with --force where sizes are right ")
            + ("" if mend else "and bytes are not; or pass --repair, which does so.")
        )


def _mend(artifact: Artifact, here: Mapping[str, str], there: Mapping[str, str], context: Context) -> bool:
    show_log()
    done = repair_everywhere(artifact, here, there, context=context)
    for path, place in done.set_aside.items():
        click.echo(f"  {path} set aside as {place}")
    click.echo(f"  {done.problem or 'made whole'}")
    return not done.problem


@click.command(params=store_options())
@click.option(
    "--drop", multiple=True, metavar="REF", help="Also remove this artifact, by fingerprint or its beginning."
)
@click.option("--yes", is_flag=True, help="Remove without asking.")
def gc(store: Store, drop: tuple[str, ...], yes: bool) -> None:
    """Remove what nothing refers to, after showing it with its size.

    That is: what killed runs left, and artifacts that no student or report was made from and that are not the newest
    of their stage. Students and reports stay until they are named by --drop.
    """
    kept = [stage.name for stage in _stages() if stage.keep]
    dropped = [found.path for found in _chosen(store, drop)] if drop else []
    paths = garbage(store, kept_stages=kept, drop=dropped)
    sizes = {path: _size(path) or remote_size(store, path) for path in paths}
    for path, size in sizes.items():
        click.echo(f"{path.parent.name} {_leftover_name(path)}  {human_size(size)}")
    abandoned = _show_abandoned(store)
    num_found = len(paths) + len(abandoned)
    if not num_found:
        click.echo("Nothing to remove.")
        return
    total = human_size(sum(sizes.values()) + sum(each.size for each in abandoned))
    if not yes and not click.confirm(f"Remove these {num_found} ({total})?"):
        click.echo("Nothing removed.")
        return
    now = set(garbage(store, kept_stages=kept, drop=dropped))  # runs may have begun while the question stood
    for path in paths:
        if path in now:
            store.remove(path)
        else:
            click.echo(f"{path} is in use by now, and stays.")
    remove_abandoned(store, abandoned)
    click.echo(f"Removed {len(now & set(paths)) + len(abandoned)} of {num_found} ({total}).")


def _show_abandoned(store: Store) -> list[Abandoned]:
    """Show files in an object store that no record names; return those that no upload can be at work on."""
    found = abandoned_files(store)
    for each in found:
        state = "no record names them" if each.is_old else "being uploaded, or left; stays for a day"
        click.echo(f"{each.folder}  {len(each.keys)} files  {human_size(each.size)}  {state}")
    return [each for each in found if each.is_old]


def garbage(store: Store, *, kept_stages: Sequence[str], drop: Sequence[Path] = ()) -> list[Path]:
    """Find the folders that ``gc`` removes.

    Args:
        store: where.
        kept_stages: stages whose artifacts stay though nothing refers to them.
        drop: artifacts to remove even so.

    Raises:
        ProtoRKDError: something that stays was made from an artifact to be dropped, or a record cannot be read.
    """
    artifacts, damaged = store.survey()
    if damaged:
        raise next(iter(damaged.values()))  # what it was made from is not known
    newest = {artifact.record.stage: artifact.path for artifact in artifacts if artifact.path not in drop}
    roots = [
        artifact
        for artifact in artifacts
        if artifact.path not in drop
        and (artifact.record.stage in kept_stages or newest.get(artifact.record.stage) == artifact.path)
    ]
    live = digests_in_use(store)
    queue = roots + [artifact for artifact in artifacts if artifact.record.digest in live]
    for artifact in queue:  # grows while it is walked
        wanted = {entry.digest for entry in artifact.record.inputs.values()} | set(artifact.record.uses)
        queue += [other for other in artifacts if other.record.digest in wanted - live]
        live |= wanted
    live |= {artifact.record.digest for artifact in roots}
    for artifact in artifacts:
        if artifact.path in drop and artifact.record.digest in live:
            raise ProtoRKDError(
                f"--drop must name an artifact that nothing was made from; got {artifact.name}. "
                "Drop what was made from it as well."
            )
    unheld = [path for path in store.leftovers() if not _is_live(store, path)]
    return unheld + [artifact.path for artifact in artifacts if artifact.record.digest not in live]


def artifact_problems(artifact: Artifact) -> dict[str, str]:
    """Read an artifact whole; name each file that is not as written, and what the record itself gets wrong."""
    record = artifact.record
    problems = record.problems(artifact.path, read=True)
    known = {file.path for file in record.files} | {RECORD_NAME}
    problems |= {path: "is not in the record" for path in list_files(artifact.path) if path not in known}
    inputs = {name: entry.digest for name, entry in record.inputs.items()}
    if digest_of_files(record.digested_files) != record.digest:
        problems[RECORD_NAME] = "its digest does not follow from its files"
    elif fingerprint(record.stage, record.version, record.params, inputs) != record.fingerprint:
        problems[RECORD_NAME] = "its fingerprint does not follow from its parameters and inputs"
    return problems


def human_size(size: float) -> str:
    """Bytes as people read them: 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _command(stage: AnyStage, callback: Callable[..., None], common: list[click.Option]) -> click.Command:
    own = [option for kind in (stage.inputs, stage.params, stage.runtime) for option in click_options(kind)]
    return click.Command(stage.name, callback=callback, params=[*own, *common], help=stage.summary)


def _stages() -> Sequence[AnyStage]:
    """All stages, as the command line's group hands them down; none where a command is run by itself."""
    return click.get_current_context().obj or ()


def _options(stage: AnyStage, values: dict[str, Any]) -> dict[str, Any]:
    kinds = {"params": stage.params, "inputs": stage.inputs, "runtime": stage.runtime}
    return {name: take(kind, values) for name, kind in kinds.items()}


def _chosen(store: Store, references: Sequence[str]) -> list[Artifact]:
    known = store.artifacts()
    if not references:
        return known
    chosen = []
    for reference in references:
        for path, error in store.unreadable().items():
            if path.name.startswith(reference):
                raise error
        fitting = [artifact for artifact in known if artifact.record.fingerprint.startswith(reference)]
        if len(fitting) != 1:
            names = ", ".join(artifact.name for artifact in (fitting or known)) or "none"
            raise ProtoRKDError(
                f"A reference must fit exactly one artifact in {store}; got {reference!r}. Known: {names}."
            )
        chosen += fitting
    return chosen


def _leftover_name(path: Path) -> str:
    prefix, _, name = path.name.rpartition("-")
    unfinished = prefix or (path.exists() and not (path / RECORD_NAME).exists())
    return f"{name[:12]}{' (unfinished)' if unfinished else ''}"


def _leftover_state(store: Store, path: Path) -> str:
    return "in the making" if _is_live(store, path) else "left by a killed run; the same command goes on from it"


def _is_live(store: Store, path: Path) -> bool:
    return is_held(store, path.parent.name, path.name.rpartition("-")[2])


def _size(path: Path) -> int:
    size = 0
    for file in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # of a draft in the making
            size += file.stat().st_size if file.is_file() else 0
    return size


def _brief(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
