"""The commands about artifacts: status, verify, gc; and the options that commands share."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from data_schemas.artifact_record import LOG_FOLDER, RECORD_NAME
from data_schemas.errors import NewerRecordError, ProtoRKDError
from data_schemas.files import disk_errors, list_files
from pipeline.commands.store_options import store_options
from pipeline.fingerprint import digest_of_files, fingerprint
from pipeline.log import show_log
from pipeline.maintenance.embedding_values import value_problems
from pipeline.maintenance.garbage import Garbage, is_live
from pipeline.maintenance.remote import (
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
from pipeline.options.completion import complete_references
from pipeline.results.overview import overview_of, overview_text
from pipeline.results.rows import evaluations_by_digest
from pipeline.runner import context_of
from pipeline.sizes import human_size
from pipeline.stage import AnyStage, Context
from pipeline.store.store import Artifact, Store
from pipeline.terminal import echo

_NEWER = "OF A NEWER PROTORKD"


def json_option(what: str) -> click.Option:
    """Make ``--json``, the same for every command that reports."""
    return click.Option(["--json", "as_json"], is_flag=True, help=f"Print {what} as one JSON object on stdout.")


def quiet_option() -> click.Option:
    """Make ``--quiet``, the same for every command that works."""
    return click.Option(["--quiet"], is_flag=True, help="Say nothing but warnings and errors.")


def print_json(values: Mapping[str, Any]) -> None:
    """Print the output of ``--json``, on one line."""
    echo(json.dumps(values, ensure_ascii=False))


@click.command(params=[*store_options(), json_option("the list")])
def status(store: Store, as_json: bool) -> None:
    """List the artifacts: what exists, from what, how big; those that stages made on their way are summed up."""
    artifacts, unreadable = store.survey()
    leftovers = list(store.leftovers())
    stages = available_stages()
    evaluations = evaluations_by_digest(artifacts, stages)
    overviews = {each.path: overview_of(each, evaluations.get(each.record.digest, ()), stages) for each in artifacts}
    damages = {
        artifact.path: artifact.record.problems(artifact.path, read=False) if is_here(store, artifact) else {}
        for artifact in artifacts
    }
    if as_json:
        print_json(
            {
                "store": str(store),
                "artifacts": [
                    {**_describe(each), **overviews[each.path], "problems": damages[each.path]} for each in artifacts
                ],
                "unreadable": {str(path): str(error) for path, error in unreadable.items()},
                "unfinished": [_describe_leftover(store, path) for path in leftovers],
            }
        )
        return
    names = {artifact.record.digest: artifact.name for artifact in artifacts}
    if not artifacts and not unreadable:
        echo(f"{store} holds no artifacts.")
    commands = {stage.name for stage in stages}
    inner: dict[str, list[int]] = {}
    for artifact in artifacts:
        record = artifact.record
        damage = damages[artifact.path]
        if commands and record.stage not in commands and not damage:
            inner.setdefault(record.stage, []).append(record.size)
            continue
        sources = [
            names.get(entry.digest) or f"{name} {entry.location or entry.digest[:12]}"
            for name, entry in record.inputs.items()
        ]
        state = f"  NOT WHOLE: {', '.join(damage)}" if damage else remark(store, artifact)
        said = overview_text(overviews[artifact.path])
        made = f"{artifact.name}  {human_size(record.size)}  {record.created[:19]}"
        echo(f"{made}  {said}from {'; '.join(sources)}{state}")
    for stage_name, sizes in inner.items():
        echo(f"{stage_name}  {len(sizes)} made on the way  {human_size(sum(sizes))}")
    for path, error in unreadable.items():
        state = f"{_NEWER}: {error}" if isinstance(error, NewerRecordError) else f"NOT WHOLE: {RECORD_NAME}"
        echo(f"{path.parent.name} {path.name[:12]}  {human_size(_size(path))}  {state}")
    for path in leftovers:
        echo(f"{path.parent.name} {_leftover_name(path)}  {human_size(_size(path))}  {_leftover_state(store, path)}")


@click.command(params=[*store_options(), json_option("the findings")])
@click.argument("references", nargs=-1, shell_complete=complete_references())
@click.option("--repair", "mend", is_flag=True, help="Set bad files aside, and make anew what they held.")
@click.option(
    "--trust-remote-code",
    is_flag=True,
    help="With --repair: run Python code that comes with a teacher, where a record asks for it. Read it first.",
)
def verify(store: Store, references: tuple[str, ...], mend: bool, trust_remote_code: bool, as_json: bool) -> None:
    """Read every byte of the artifacts again and prove that they are what their records say.

    Embeddings must hold finite numbers as well, and no more rows of zeros than their record counts.

    REFERENCES are fingerprints or their beginnings; without any, all artifacts are read.
    """
    if trust_remote_code and not mend:
        raise ProtoRKDError("--trust-remote-code must go with --repair; got it alone. Nothing is run without --repair.")
    store = store.absolute()
    context = context_of(store, stages=available_stages())
    chosen = _chosen(store, references)
    unreadable = {} if references else store.unreadable()
    for folder, error in unreadable.items():
        newer = isinstance(error, NewerRecordError)
        echo(f"{folder.parent.name} {folder.name[:12]}: {_NEWER if newer else 'NOT WHOLE'}\n  {error}", err=as_json)
        if mend and not newer:
            echo(f"  set aside as {set_any_record_aside(folder, store=store)}", err=as_json)
    newer_records = [error for error in unreadable.values() if isinstance(error, NewerRecordError)]
    num_bad, num_lacking = len(unreadable) - len(newer_records), 0
    findings = []
    for artifact in chosen:
        here = artifact_problems(artifact) if is_here(store, artifact) else {}
        there = remote_problems(store, artifact)
        lacking = {} if here or there else _lacking(store, artifact)
        state = "NOT WHOLE" if here or there else "whole, and NOT USABLE" if lacking else "whole"
        echo(f"{artifact.name}: {state}", err=as_json)
        for path, problem in here.items():
            echo(f"  {artifact.path / path}: {problem}", err=as_json)
        for path, problem in there.items():
            place = f"{store}/{artifact.record.stage}/{artifact.record.fingerprint}"
            echo(f"  {place}, {path}: {problem}", err=as_json)
        for path, problem in lacking.items():
            echo(f"  {path}: {problem}", err=as_json)
        damaged = bool(here or there)
        mended = (
            damaged and mend and _mend(artifact, here, there, context, trust_code=trust_remote_code, to_stderr=as_json)
        )
        num_bad += damaged and not mended
        num_lacking += bool(lacking)
        problems = {"problems": here, "remote_problems": there, "lacking": lacking, "mended": mended}
        findings.append({**_describe(artifact), **problems})
    if as_json:
        texts = {str(folder): str(error) for folder, error in unreadable.items()}
        print_json(
            {
                "store": str(store),
                "whole": not num_bad and not num_lacking and not newer_records,
                "artifacts": findings,
                "unreadable": texts,
            }
        )
    if num_bad:
        raise ProtoRKDError(
            f"Every artifact must be as it was written; {num_bad} of {len(chosen) + len(unreadable)} are not. "
            + ("" if mend else "Run their stages again with the same options, and with --force where sizes are right ")
            + ("" if mend else "and bytes are not; or pass --repair, which does so.")
        )
    if num_lacking:
        raise ProtoRKDError(
            f"Every artifact must have what it is used with; {num_lacking} of {len(chosen)} have not. What each lacks, "
            "and the command that makes it again, is printed above."
        )
    if newer_records:
        raise newer_records[0]


def _lacking(store: Store, artifact: Artifact) -> dict[str, str]:
    """Name what an artifact whose own files are whole cannot be used without, and the store has no more."""
    stage = next((each for each in available_stages() if each.name == artifact.record.stage), None)
    if stage is None or stage.lacking is None or not is_here(store, artifact):
        return {}
    return dict(stage.lacking(artifact, store))


def _mend(
    artifact: Artifact,
    here: Mapping[str, str],
    there: Mapping[str, str],
    context: Context,
    *,
    trust_code: bool,
    to_stderr: bool,
) -> bool:
    show_log()
    done = repair_everywhere(artifact, here, there, context=context, trust_code=trust_code)
    for path, place in done.set_aside.items():
        echo(f"  {path} set aside as {place}", err=to_stderr)
    echo(f"  {done.problem or 'made whole'}", err=to_stderr)
    return not done.problem


@click.command(params=[*store_options(), json_option("what is removed, or without --yes what would be,")])
@click.option(
    "--drop",
    multiple=True,
    metavar="REF",
    shell_complete=complete_references(),
    help="Also remove this artifact, by fingerprint or its beginning.",
)
@click.option("--yes", is_flag=True, help="Remove without asking.")
def gc(store: Store, drop: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Remove what nothing refers to, after showing it with its size.

    That is: what killed runs left, and artifacts that no student or report was made from and that are not the newest
    of their stage. Students and reports stay until they are named by --drop.
    """
    kept = [stage.name for stage in available_stages() if stage.keep]
    dropped = [artifact.path for artifact in _chosen(store, drop)] if drop else []
    garbage = Garbage(store, kept_stages=kept, drop=dropped)
    paths = garbage.paths
    entries = [_describe_leftover(store, path) for path in paths]
    sizes = {path: _size(path) or remote_size(store, path) for path in paths}
    for path, size in sizes.items():
        echo(f"{path.parent.name} {_leftover_name(path)}  {human_size(size)}", err=as_json)
    abandoned = _show_abandoned(store, to_stderr=as_json)
    num_found = len(paths) + len(abandoned)
    total = human_size(sum(sizes.values()) + sum(each.size for each in abandoned))
    removed: set[Path] = set()
    if not num_found:
        echo("Nothing to remove.", err=as_json)
    elif yes or (not as_json and click.confirm(f"Remove these {num_found} ({total})?")):
        for path in paths:
            with disk_errors(path):
                if garbage.remove(path):
                    removed.add(path)
                else:  # runs may have begun while the user was asked, or another was removed
                    echo(f"{path} is in use by now, and stays.", err=as_json)
        remove_abandoned(store, abandoned)
        echo(f"Removed {len(removed) + len(abandoned)} of {num_found} ({total}).", err=as_json)
    else:
        echo("Nothing removed.", err=as_json)
    if as_json:
        each = [{**entry, "removed": path in removed} for path, entry in zip(paths, entries, strict=True)]
        print_json({"store": str(store), "garbage": each})


def _show_abandoned(store: Store, *, to_stderr: bool) -> list[Abandoned]:
    """Show files in an object store that no record names; return those that no upload can still be writing."""
    abandoned = abandoned_files(store)
    for each in abandoned:
        state = "no record names them" if each.is_old else "being made by others, uploaded, or left; stays for a day"
        echo(f"{each.folder}  {len(each.keys)} files  {human_size(each.size)}  {state}", err=to_stderr)
    return [each for each in abandoned if each.is_old]


def artifact_problems(artifact: Artifact) -> dict[str, str]:
    """Read a whole artifact; name each file that is not as written, wrong numbers, and errors in the record itself."""
    record = artifact.record
    problems = record.problems(artifact.path, read=True)
    known = {file.path for file in record.files} | {RECORD_NAME}
    added = [path for path in list_files(artifact.path) if path not in known and not path.startswith(f"{LOG_FOLDER}/")]
    problems |= dict.fromkeys(added, "is not in the record")  # logs may gain some, as from `wandb sync`
    if not problems:
        problems |= value_problems(artifact)
    inputs = {name: entry.digest for name, entry in record.inputs.items()}
    if digest_of_files(record.digested_files) != record.digest:
        problems[RECORD_NAME] = "its digest does not follow from its files"
    elif fingerprint(record.stage, record.version, record.params, inputs) != record.fingerprint:
        problems[RECORD_NAME] = "its fingerprint does not follow from its parameters and inputs"
    return problems


def available_stages() -> Sequence[AnyStage]:
    """Return all stages, which the command line's group passes on; none where a command runs by itself."""
    return click.get_current_context().obj or ()


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


def _describe(artifact: Artifact) -> dict[str, Any]:
    """Describe an artifact for ``--json``."""
    record = artifact.record
    return {
        "stage": record.stage,
        "fingerprint": record.fingerprint,
        "digest": record.digest,
        "path": str(artifact.path),
        "bytes": record.size,
        "created": record.created,
        "inputs": {name: {"digest": entry.digest, "location": entry.location} for name, entry in record.inputs.items()},
    }


def _describe_leftover(store: Store, path: Path) -> dict[str, Any]:
    """Describe a folder that may not be an artifact for ``--json``."""
    name = path.name.rpartition("-")[2]
    held = is_live(store, path)
    return {"stage": path.parent.name, "fingerprint": name, "path": str(path), "bytes": _size(path), "held": held}


def _leftover_name(path: Path) -> str:
    prefix, _, name = path.name.rpartition("-")
    unfinished = prefix or (path.exists() and not (path / RECORD_NAME).exists())
    return f"{name[:12]}{' (unfinished)' if unfinished else ''}"


def _leftover_state(store: Store, path: Path) -> str:
    return "in the making" if is_live(store, path) else "left by a killed run; the same command goes on from it"


def _size(path: Path) -> int:
    size = 0
    for file in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a draft may change meanwhile
            size += file.stat().st_size if file.is_file() else 0
    return size
