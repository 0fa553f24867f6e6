"""A stage without tensors: it writes its input's words into files, one per part.

As a script, it runs the stage in a process of its own: ``toy_stage.py STORE SOURCE PAUSE_S [CACHE [NUM_PARTS]]``; with
a number of parts it joins others.
"""

import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from data_schemas.files import write_atomic
from pipeline.commands.store_options import open_store
from pipeline.log import show_log
from pipeline.options.declaration import NOT_NEGATIVE, POSITIVE, option
from pipeline.results.figure import Figure
from pipeline.runner import context_of, run_stage
from pipeline.stage import Input, Overview, Result, Stage, Work
from pipeline.store.store import Store


@dataclass(frozen=True)
class ToyInputs:
    source: Path = option(help="A text.")


@dataclass(frozen=True)
class ToySources:
    source: Input[str]


@dataclass(frozen=True)
class ToyParams:
    scale: float = option(1.0, help="A number.", check=POSITIVE)
    num_parts: int = option(3, help="Files to write.", check=POSITIVE)
    word: str | None = option(None, help="One more word.")


@dataclass(frozen=True)
class ToyRuntime:
    pause_s: float = option(0.0, help="Seconds of work a part.", check=NOT_NEGATIVE)
    fail_after: int = option(-1, help="Parts after which it raises. -1: never.")


def run_toy(params, sources, out, runtime, context):
    """Write the parts that are not whole yet, and the files that are written anew each time."""
    paths = [f"parts/{number}.txt" for number in range(params.num_parts)]
    queue, num_made = out.shards([(path,) for path in paths], look=lambda number: {"made": 0}), 0
    for numbers in queue.rounds():
        for number in numbers:
            if num_made == runtime.fail_after:
                raise RuntimeError("as asked")
            time.sleep(runtime.pause_s)
            text = f"{number} {params.scale} {params.word} {sources.source.value}"
            write_atomic(out.path / paths[number], text.encode())
            queue.finish(number, {"made": 1, "by": os.getpid()})
            num_made += 1
    write_atomic(out.path / "summary.txt", f"{params.num_parts} parts".encode())
    write_atomic(out.logs / "times.txt", f"{time.time_ns():020}".encode())
    write_atomic(out.state / "resume.txt", b"for a resume alone")
    made = sum(facts["made"] for facts in queue.facts.values())
    return Result(counts={"made": made}, environment={"device": "none"})


def identify(inputs, params, context):
    digest = context.file_digests.digest(inputs.source)
    return ToySources(Input(digest=digest, location=str(inputs.source.resolve()), value=inputs.source.read_text()))


def work(params, sources, context):
    return Work(counts={"made": params.num_parts}, paced_by="made", like=("word",), size=10 * params.num_parts)


TOY = Stage(
    name="toy",
    version=1,
    summary="Write words.",
    params=ToyParams,
    inputs=ToyInputs,
    runtime=ToyRuntime,
    identify=identify,
    run=run_toy,
    joinable=True,
    work=work,
)


@dataclass(frozen=True)
class ChildInputs:
    toy: str | None = option(None, help="Artifact of toy.", artifact="toy")


@dataclass(frozen=True)
class ChildSources:
    toy: Input[None]


@dataclass(frozen=True)
class NoOptions:
    pass


def identify_child(inputs, params, context):
    artifact = context.store.resolve(inputs.toy, stage="toy", flag="--toy")
    return ChildSources(Input(digest=artifact.record.digest, location=str(artifact.path), value=None))


def run_child(params, sources, out, runtime, context):
    write_atomic(out.path / "child.txt", sources.toy.digest.encode())
    return Result(counts={}, metrics={"score": 50.0})


CHILD = Stage(
    name="child",
    version=1,
    summary="Read a toy.",
    params=NoOptions,
    inputs=ChildInputs,
    runtime=NoOptions,
    identify=identify_child,
    run=run_child,
    keep=True,
)


def child_figures(artifact, read):
    """Read a file, and give the score of the record with an interval."""
    read("child.txt")
    return {"score": Figure(artifact.record.metrics["score"], low=40.0, high=60.0, better="higher", is_headline=True)}


MEASURED_TOY = replace(TOY, overview=Overview(options=("word",), count="made"))
MEASURING_CHILD = replace(
    CHILD, overview=Overview(measures="toy", headline=lambda metrics: next(iter(metrics), ""), figures=child_figures)
)


class Toy:
    """Runs the two stages against one store and one source."""

    def __init__(self, root):
        self.store = Store(root / "store")
        self.source = root / "source.txt"
        self.source.write_text("words")

    def run(self, *, force=False, join=False, pause_s=0.0, fail_after=-1, version=1, source=None, **params):
        return run_stage(
            replace(TOY, version=version),
            params=ToyParams(**params),
            inputs=ToyInputs(source=source or self.source),
            runtime=ToyRuntime(pause_s=pause_s, fail_after=fail_after),
            context=context_of(self.store, force=force, join=join),
        )

    def run_child(self, toy=None):
        context = context_of(self.store)
        return run_stage(CHILD, params=NoOptions(), inputs=ChildInputs(toy), runtime=NoOptions(), context=context)


if __name__ == "__main__":
    show_log()
    toy = Toy.__new__(Toy)
    cache = Path(sys.argv[4]) if len(sys.argv) > 4 and sys.argv[4] else None
    toy.store, toy.source = open_store(sys.argv[1], cache=cache), Path(sys.argv[2])
    joined = {"join": True, "num_parts": int(sys.argv[5])} if len(sys.argv) > 5 else {}
    outcome = toy.run(pause_s=float(sys.argv[3]), **joined)
    modules = "torch" in sys.modules
    sys.stdout.write(json.dumps({**outcome.as_json(), "torch": modules}))
