"""The loop of a run: rows go to the network, bodies to the decoders, outcomes to the journal, all of them bounded."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from data_schemas.images.gathered_folder import FAILED, INVALID, OK, REJECTED, RowOutcome, image_path
from stages.gather_cc.addresses import INVALID as INVALID_URL
from stages.gather_cc.addresses import parse_url, url_problem
from stages.gather_cc.client import Client
from stages.gather_cc.decoders import Decoders
from stages.gather_cc.host_health import GIVEN_UP, HostHealth
from stages.gather_cc.host_queues import HostQueues, Job
from stages.gather_cc.http_result import Body, Failure, Redirect
from stages.gather_cc.image_writer import WrittenImage
from stages.gather_cc.options import GatherRuntime
from stages.gather_cc.outcome_journal import Journal
from stages.gather_cc.url_table import Row

_MIN_AHEAD = 10_000  # rows that wait, so that there are hosts to choose from
_AHEAD = 8  # or so many for each request
_ALARM_S = 0.5  # longest pause between checks whether a block is due


class Gatherer:
    """A run over rows, until none is left; it is used once.

    Args:
        rows: Rows to request, in order; taken as there is room.
        root: Folder of the images.
        client: Client that requests URLs.
        decoders: Processes that decode and write images.
        journal: Journal of the outcomes.
        runtime: Limits and timeouts.
        advance: Called with the number of rows that are done.
    """

    def __init__(
        self,
        rows: Iterator[Row],
        *,
        root: Path,
        client: Client,
        decoders: Decoders,
        journal: Journal,
        runtime: GatherRuntime,
        advance: Callable[[int], None],
    ) -> None:
        self._rows = rows
        self._root = root
        self._client = client
        self._decoders = decoders
        self._journal = journal
        self._runtime = runtime
        self._advance = advance
        self._queues = HostQueues(per_host=runtime.per_host)
        self._health = HostHealth(host_failures=runtime.host_failures, max_silent=runtime.max_silent)
        self._ahead = max(_MIN_AHEAD, _AHEAD * runtime.concurrency)
        self._out: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._error: BaseException | None = None
        self.stopped = False

    async def run(self) -> None:
        """Request rows until all are done, or until SIGINT or SIGTERM, which drops pending requests.

        Raises:
            ProtoRKDError: the disk is full, the network is gone, or this machine has no more connections.
        """
        loop = asyncio.get_running_loop()
        self._loop_time = loop.time
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number)
        try:
            await self._work()
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
            for task in self._out:
                task.cancel()
            await asyncio.gather(*self._out, return_exceptions=True)
            await self._journal.close()

    def _stop(self, number: signal.Signals) -> None:
        self.stopped = True
        asyncio.get_running_loop().remove_signal_handler(number)  # a second signal has its default effect
        self._changed.set()

    async def _work(self) -> None:
        while not self.stopped:
            self._changed.clear()
            if self._error is not None:
                raise self._error
            self._fill()
            self._send_out()
            self._journal.write_if_due()
            if not self._out and not self._queues:
                for outcome in self._health.release_held():
                    self._journal.add(outcome)
                return
            await self._wait()

    async def _wait(self) -> None:
        at = self._loop_time() + _ALARM_S
        if len(self._out) < self._runtime.concurrency:  # else nothing can go out before something comes back
            at = min(at, self._queues.next_alarm() or at)
        alarm = asyncio.get_running_loop().call_at(at, self._changed.set)
        await self._changed.wait()
        alarm.cancel()

    def _fill(self) -> None:
        while len(self._queues) < self._ahead and (row := next(self._rows, None)) is not None:
            url = parse_url(row.url) if not row.problem else None
            problem = row.problem or (
                INVALID_URL if url is None else url_problem(url, allow_private=self._runtime.allow_private)
            )
            if problem or url is None:
                self._finish(RowOutcome(row.number, INVALID, problem))
            else:
                self._queues.add(Job(row.number, url))

    def _send_out(self) -> None:
        now = self._loop_time()
        while len(self._out) < self._runtime.concurrency and (job := self._queues.take(now)) is not None:
            task = asyncio.create_task(self._visit(job if job.start is not None else replace(job, start=now)))
            self._out.add(task)
            task.add_done_callback(self._on_done)

    def _on_done(self, task: "asyncio.Task[None]") -> None:
        self._out.discard(task)
        if not task.cancelled():
            self._error = self._error or task.exception()
        self._changed.set()

    async def _visit(self, job: Job) -> None:
        if self._health.is_given_up(job.host):
            self._queues.release(job.host)
            self._fail(job, Failure(GIVEN_UP, job.host, answered=False))
            return
        is_out = True
        try:
            async with self._client.ask(job.url) as answer:
                self._queues.release(job.host)  # before decoding, which does not concern the host
                is_out = False
                self._changed.set()
                self._health.note_answer(job.host, answered=not isinstance(answer, Failure) or answer.answered)
                await self._take(job, answer)
        finally:
            if is_out:
                self._queues.release(job.host)

    async def _take(self, job: Job, answer: Body | Redirect | Failure) -> None:
        match answer:
            case Body():
                await self._keep(job, answer)
            case Redirect():
                self._follow(job, answer)
            case Failure():
                self._fail_or_wait(job, answer)

    async def _keep(self, job: Job, body: Body) -> None:
        result = await self._decoders.write(job.row, body.data)
        outcome = RowOutcome(
            job.row,
            OK if isinstance(result, WrittenImage) else REJECTED,
            http_status=body.http_status,
            bytes=len(body.data),
            seconds=self._seconds(job),
        )
        if isinstance(result, WrittenImage):
            self._finish(replace(outcome, width=result.width, height=result.height, sha256=result.sha256))
        else:
            self._finish(replace(outcome, reason=result.reason, detail=result.detail))

    def _follow(self, job: Job, answer: Redirect) -> None:
        problem = url_problem(answer.url, allow_private=self._runtime.allow_private)
        if problem:
            self._fail(job, Failure(f"redirect: {problem}", str(answer.url)[:200], answer.http_status))
        elif job.redirects >= self._runtime.max_redirects:
            self._fail(job, Failure("more than --max-redirects", http_status=answer.http_status))
        else:
            self._queues.add(replace(job, url=answer.url, redirects=job.redirects + 1))

    def _fail_or_wait(self, job: Job, failure: Failure) -> None:
        backoff_s = min(self._runtime.backoff_s * 2**job.retries, self._runtime.max_wait_s)
        wait_s = max(backoff_s, failure.wait_s or 0.0)
        if not failure.may_pass or job.retries >= self._runtime.retries or wait_s > self._runtime.max_wait_s:
            self._fail(job, failure)
            return
        until = self._loop_time() + wait_s
        if failure.wait_s is not None:
            self._queues.pause(job.host, until=until)
        self._queues.add(replace(job, retries=job.retries + 1), at=until)

    def _fail(self, job: Job, failure: Failure) -> None:
        outcome = RowOutcome(
            job.row,
            FAILED,
            failure.reason,
            failure.detail,
            http_status=failure.http_status,
            seconds=self._seconds(job),
        )
        self._finish(outcome, answered=failure.answered)

    def _finish(self, outcome: RowOutcome, *, answered: bool = True) -> None:
        if outcome.status != OK:
            (self._root / image_path(outcome.row)).unlink(missing_ok=True)  # of a run that was killed
        for believed in self._health.judge(outcome, answered=answered):
            self._journal.add(believed)
        self._advance(1)

    def _seconds(self, job: Job) -> float:
        return round(self._loop_time() - (job.start or 0.0), 3)
