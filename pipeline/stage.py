"""What a stage is: three dataclasses of options, how its inputs are identified, and its function."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pipeline.peers import Alone, JoinPeers, Peers
from pipeline.store.draft import Draft
from pipeline.store.file_digests import FileDigests
from pipeline.store.store import Artifact, Store

P = TypeVar("P")
I = TypeVar("I")  # noqa: E741 - params, inputs, runtime
R = TypeVar("R")


@dataclass(frozen=True)
class Input:
    """An input, identified by its content.

    Args:
        digest: hash of the content; this alone is hashed into the fingerprint.
        location: where it lies, for people and for later stages.
        parts: digests of its parts, so that a change can be named.
        value: the opened thing, for the stage's function.
    """

    digest: str
    location: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    value: Any = None


@dataclass(frozen=True)
class Context:
    """What a stage is given besides its options.

    Args:
        store: Store of other artifacts, and of artifacts that the stage makes on its way.
        file_digests: Content hashes of files outside the store.
        force: Make everything anew; take over nothing from earlier artifacts.
        stages: Stages that another stage may ask for an artifact of, by name.
        peers: Processes that run the stage together.
        use: Takes the digest of an artifact that the run has come to read, so that ``gc`` leaves it alone.
    """

    store: Store
    file_digests: FileDigests
    force: bool = False
    stages: "Mapping[str, Stage[Any, Any, Any]]" = field(default_factory=dict)
    peers: Peers = field(default_factory=Alone)
    use: Callable[[str], None] = lambda _digest: None


@dataclass(frozen=True)
class Result:
    """What a stage's function reports about its work.

    Args:
        counts: What was made, and what was dropped and why.
        metrics: Measures by name.
        uses: Digests of the artifacts that were read or made on the way, besides the inputs.
        environment: Facts about the run, such as the device; kept in the record, never hashed.
    """

    counts: Mapping[str, Any]
    metrics: Mapping[str, float] = field(default_factory=dict)
    uses: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What a run would have to do, as far as that is known without doing it.

    Args:
        counts: How much there is to read and to make.
        paced_by: Name of the count, here and in earlier runs, that time grows with; "" if there is none.
        like: Parameters that the pace depends on: only earlier runs with the same values are compared.
        size: Bytes that the artifact would have; None where that is not known.
    """

    counts: Mapping[str, int]
    paced_by: str = ""
    like: tuple[str, ...] = ()
    size: int | None = None


@dataclass(frozen=True)
class Stage(Generic[P, I, R]):
    """A declaration: the command line, the fingerprint and the runner all read it.

    Args:
        name: of the subcommand, and of the folder in the store.
        version: raised when the same parameters come to mean other output.
        summary: one sentence for ``--help``.
        params: dataclass of what changes the output; hashed.
        inputs: dataclass of where the inputs lie; hashed by content.
        runtime: dataclass of what changes only how fast or where it runs; not hashed.
        identify: finds the inputs and hashes their content. Runs on every call, so it must be quick and without torch.
        run: does the work: writes into the draft, says what it did.
        keep: whether ``gc`` keeps its artifacts though nothing refers to them.
        page: file of the artifact that people open, or none.
        quiet: whether the log leaves out its starts and ends, for a stage that others ask for by the dozen and tell of.
        join: meets the other processes that torchrun started, for a stage that several processes run together; a
            stage without it is run by the first of them alone.
        agrees: whether what fails in one of several processes that run its function fails in all of them
            (`pipeline.peers.fail_together`), or fails when none of the others waits inside the function any more. Such
            a stage ends with one error everywhere, and can be run inside another by all the processes that run that
            one.
        prepare: what a run does before it is planned, in every process that has met, such as waiting for an input;
            gives the inputs to plan with.
        settle: settles parameters that depend on the machine or the store, such as an "auto", before they are hashed;
            given the identified inputs. As quick as `identify`, and in every process that has met.
        work: what a run would have to do, for ``--dry-run``. Reads what is quickly read, and writes nothing.
        deliver: what is done with an artifact each time that it is asked for, made now or before, such as copying it;
            by the first process alone.
    """

    name: str
    version: int
    summary: str
    params: type[P]
    inputs: type[I]
    runtime: type[R]
    identify: Callable[[I, P, Context], Mapping[str, Input]]
    run: Callable[[P, Mapping[str, Input], Draft, R, Context], Result]
    keep: bool = False
    page: str = ""
    quiet: bool = False
    join: JoinPeers | None = None
    agrees: bool = False
    prepare: Callable[[I, P, R, Context], I] | None = None
    settle: Callable[[P, Mapping[str, Input], R, Context], P] | None = None
    work: Callable[[P, Mapping[str, Input], Context], Work] | None = None
    deliver: Callable[[Artifact, R], None] | None = None
