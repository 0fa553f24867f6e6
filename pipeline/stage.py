"""What a stage is: three dataclasses of options, one of its inputs once identified, and its functions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pipeline.options.presets import Presets
from pipeline.peers import JoinPeers, Peers, SingleProcess
from pipeline.results.figure import Figure
from pipeline.store.draft import Draft
from pipeline.store.file_digests import FileDigests
from pipeline.store.store import Artifact, Store

V_co = TypeVar("V_co", covariant=True)

P = TypeVar("P")
I = TypeVar("I")  # noqa: E741 - params, inputs, sources, runtime
S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True)
class Input(Generic[V_co]):
    """An input, identified by its content.

    Args:
        digest: Hash of the content; only this is hashed into the fingerprint.
        location: Where the input lies, for people and for later stages.
        parts: Digests of the input's parts, so that a change can be named.
        value: The opened input, for the stage's function; None where the digest says all.
    """

    digest: str
    location: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    value: V_co = field(kw_only=True)


@dataclass(frozen=True)
class Context:
    """What a stage is given besides its options.

    Args:
        store: Store of other artifacts, and of artifacts that the stage makes on its way.
        file_digests: Content hashes of files outside the store.
        force: Make everything anew; take over nothing from earlier artifacts.
        join: Share the work with other processes that ask for the same, where a stage can be shared.
        stages: Stages that another stage may ask for an artifact of, by name.
        peers: Processes that run the stage together.
        use: Takes the digest of an artifact that the run has come to read, so that ``gc`` leaves it alone.
        check_inputs: Refuses to go on where an input was written since it was hashed, even if it has its bytes again. A
            stage that reads a file of its inputs calls it once that is read.
    """

    store: Store
    file_digests: FileDigests
    force: bool = False
    join: bool = False
    stages: "Mapping[str, AnyStage]" = field(default_factory=dict)
    peers: Peers = field(default_factory=SingleProcess)
    use: Callable[[str], None] = lambda _digest: None
    check_inputs: Callable[[], None] = lambda: None


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
class Distributed:
    """How the processes that torchrun started run a stage together.

    Args:
        join: Function that meets the other processes. It is not called where the stage runs inside another one, whose
            processes have met.
        fails_together: Whether an error in one process is the same error in all of them: the stage's function meets
            in `pipeline.peers.fail_together` where one may fail, or fails when no other waits inside it any more. Such
            a stage can be run inside another by all the processes that run that one. Otherwise the process that fails
            ends, and takes the others with it.
    """

    join: JoinPeers
    fails_together: bool = False


@dataclass(frozen=True)
class Overview:
    """What ``status`` and tables of results say of a stage's artifacts.

    Args:
        options: Parameters that tell its artifacts apart at a glance.
        count: Count of the record that says what an artifact was made from; "" for none.
        measures: Input of the stage whose artifact its figures are of; "" where they are of its own.
        headline: Chooses from the names of a record's metrics the one that it is usually judged by; "" for none.
        figures: Returns the figures of an artifact by name, those that it is usually judged by first; it reads files of
            the artifact by the function that it is given. None: the record has them all.
    """

    options: tuple[str, ...] = ()
    count: str = ""
    measures: str = ""
    headline: Callable[[Mapping[str, float]], str] = lambda _metrics: ""
    figures: Callable[[Artifact, Callable[[str], bytes]], Mapping[str, Figure]] | None = None


@dataclass(frozen=True)
class Stage(Generic[P, I, S, R]):
    """The declaration of a stage: the command line, the fingerprint and the runner all read it.

    Args:
        name: Name of the subcommand, and of the folder in the store.
        version: Version, raised when the same parameters come to mean other output.
        summary: One sentence for ``--help``.
        params: Dataclass of what changes the output; hashed.
        inputs: Dataclass of where the inputs lie; hashed by content.
        runtime: Dataclass of what changes only how fast or where it runs; not hashed.
        identify: Finds the inputs, hashes their content, and returns the stage's dataclass of them
            (`pipeline/sources.py`). Runs on every call, so it must be quick and without torch.
        run: Does the work: writes into the draft, and reports what it did.
        keep: Whether ``gc`` keeps its artifacts though nothing refers to them.
        page: File of the artifact that people open; "" for none.
        quiet: Whether the log leaves out its starts and ends, for a stage that others ask for by the dozen and report.
        distributed: How several processes run the stage together. Without it, the first of them runs it alone, unless
            the stage is joinable.
        joinable: Whether processes that know nothing of each other may share its work: it writes shards that do not
            depend on one another, through the draft's `shards`.
        prepare: Runs before the plan in every process that has met, for instance to wait for an input; returns the
            inputs to plan with.
        settle: Settles parameters that depend on the machine, the store or an input, such as an "auto", before they are
            hashed; receives the inputs as they were named, and identified. Must be as quick as `identify`, and runs in
            every process that has met.
        work: Says what a run would have to do, for ``--dry-run``. Reads only what is quickly read, and writes nothing.
        check: Refuses options that are mistakes whatever the inputs hold, before the first of a run's stages begins. It
            is not asked where the artifact is there, may import torch, and must be quick.
        lacking: Names what an artifact cannot be used without and the store has no more, beside its own files, for
            ``verify``: problems by the file that says so.
        deliver: Handles an artifact each time that it is asked for, made now or before, for instance copies it; runs in
            the first process alone.
        presets: Named sets of values for options that are left out; None where the defaults are all there is.
        overview: What ``status`` and tables of results say of its artifacts; None for no more than of any.
    """

    name: str
    version: int
    summary: str
    params: type[P]
    inputs: type[I]
    runtime: type[R]
    identify: Callable[[I, P, Context], S]
    run: Callable[[P, S, Draft, R, Context], Result]
    keep: bool = False
    page: str = ""
    quiet: bool = False
    distributed: Distributed | None = None
    joinable: bool = False
    prepare: Callable[[I, P, R, Context], I] | None = None
    settle: Callable[[P, I, S, R, Context], P] | None = None
    work: Callable[[P, S, Context], Work] | None = None
    check: Callable[[P, I, R], None] | None = None
    lacking: Callable[[Artifact, Store], Mapping[str, str]] | None = None
    deliver: Callable[[Artifact, R], None] | None = None
    presets: Presets | None = None
    overview: Overview | None = None

    def check_options(self, *, params: P, inputs: I, runtime: R) -> None:
        """Refuse options that are mistakes, as `check` says; a stage without one takes all.

        Raises:
            ProtoRKDError: an option is one.
        """
        if self.check is not None:
            self.check(params, inputs, runtime)


AnyStage = Stage[Any, Any, Any, Any]
