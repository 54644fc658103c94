"""The contract of a pool: where jobs run.

A pool is one idea with one wire: length-prefixed msgpack frames over a socket pair between the supervisor and each
pool process, many jobs to a frame when jobs are short. The kinds differ only in what fills the slots. A job never
waits behind another in a busy slot while another slot is free: what a process has not started can be taken back.
``umbel.testing.contracts.pool`` judges an implementation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar

import msgspec

# Decoded from frames, so msgspec needs the classes themselves at run time.
from umbel.core.causes import Cause
from umbel.core.records import Action, Publication, ResultRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from contextlib import AbstractContextManager


T = TypeVar("T")


class Work(msgspec.Struct, array_like=True):
    """One job on its way to a slot.

    ``seq`` is the supervisor's number for it. ``announce`` asks the process to say when it starts the job, for jobs
    with a hard limit, an early acknowledgement or a listener; short jobs are not announced, their end says it all.
    Limits of None mean: as the message or the task says. ``brief`` is the dispatcher's guess that the job is short,
    so that it may share a frame. ``chord`` makes it no message at all: the id of a chord that is to be completed, whose
    plan (``DueChord.body``) is the payload. ``told`` asks for what monitors are shown of the end. With ``runs_on`` the
    process may begin at once, under the same number, the one job that follows this one (``JobRunner.follow``). After
    ``begin_by`` (``boot_seconds``; 0 for never) another worker may have the job: the process does not begin it any more
    and reports it as ``NOT_BEGUN``, whoever stood still meanwhile. ``ahead`` is where the broker's clock stands
    (``BrokerClock.ahead``).
    """

    seq: int
    payload: bytes
    queue: str
    redelivered: bool = False
    announce: bool = False
    brief: bool = False
    time_limit: float | None = None
    soft_time_limit: float | None = None
    chord: str = ""
    told: bool = False
    runs_on: bool = False
    begin_by: float = 0.0
    ahead: float | None = None


#: The state that a job is reported with which was too late to begin.
NOT_BEGUN: Final = "NOT_BEGUN"


class Report(msgspec.Struct, array_like=True):
    """What a pool process says of a finished job: all that settlement needs, already encoded.

    ``action``, ``payload``, ``due`` and ``reason`` become the delivery's disposition; ``state`` is the task's new
    state, for counters and events; ``runtime`` is in seconds. ``error`` is the text of the exception, if any.
    ``followers`` are results to be stored with ``result``: of the tasks that will not run because this one failed.
    ``shown`` is the result or exception as text, and ``traceback`` the exception's, for jobs that are ``told`` of.
    ``cause`` goes with the action ``dead_letter``.
    With ``goes_on`` the only publication has begun already, as a job of the same number in the same slot.
    """

    seq: int
    state: str
    action: Action
    runtime: float
    result: ResultRecord | None = None
    publish: list[Publication] = []
    payload: bytes | None = None
    due: float = 0.0
    reason: str = ""
    error: str = ""
    followers: list[ResultRecord] = []
    shown: str = ""
    traceback: str = ""
    goes_on: bool = False
    cause: Cause | None = None


class Lost(msgspec.Struct):
    """A job whose process ended under it. ``why`` is text such as ``signal 11 (SIGSEGV)`` or ``exitcode 3``.

    ``cause`` is ``worker_lost``, ``time_limit`` (its hard limit ended it), ``terminated`` (on request) or
    ``bystander``: it had begun in a process that was ended because of another job, as happens where a process has
    several slots; nothing speaks against running it again.
    """

    seq: int
    why: str
    cause: str
    pid: int = 0


class PoolListener(Protocol):
    """What a pool tells its worker, always from the event loop's thread and in batches where there are batches."""

    def on_started(self, started: Sequence[tuple[int, int, float]]) -> None:
        """Announced jobs have begun: (seq, pid, epoch seconds)."""

    def on_reports(self, reports: Sequence[Report]) -> None:
        """Jobs have ended; their slots are free again. An empty batch says only that slots have become free.

        Of a job that ``goes_on`` the number and the slot are in use still, by what follows it.
        """

    def on_lost(self, lost: Sequence[Lost]) -> None:
        """Exactly the jobs that were running when their process ended."""

    def on_returned(self, seqs: Sequence[int]) -> None:
        """Jobs that a process had been given and has not begun: to be submitted again, or settled otherwise."""


class Pool(Protocol):
    """Runs jobs in slots. start, submit…, stop; safe to stop twice, or unstarted."""

    #: Slots in all processes together.
    size: int
    #: Whether a process of its runs several jobs at a time.
    shares: bool
    #: Whether its processes heed ``Work.runs_on``.
    runs_on: bool

    async def start(self, listener: PoolListener) -> None:
        """Start the processes; returns when every one has said that it is up, raises if the first cannot come up."""

    def free(self) -> int:
        """How many jobs can be submitted so that each starts at once."""

    def depth(self) -> int:
        """How many brief jobs beyond ``free`` may share frames with busy processes now; 0 while jobs are long."""

    def submit(self, works: Sequence[Work]) -> None:
        """Give jobs to slots, free slots first. Never blocks; the caller keeps to ``free`` plus ``depth``."""

    def begun(self) -> list[tuple[int, int]]:
        """The jobs that run now, announced or not: (seq, pid)."""

    def pids(self) -> list[int]:
        """The ids of the pool processes."""

    async def resize(self, size: int) -> None:
        """Grow, or shrink by stopping idle processes as they become idle."""

    def restart(self) -> None:
        """Replace every process, each when its successor is up; what runs in it ends there.

        Raises ValueError where there is no process but the worker's own.
        """

    def terminate_job(self, seq: int, signal: int) -> bool:
        """End a running job by sending its process a signal; false if it is not running here, or cannot be ended.

        When the process ends of it, the loss is reported as terminated.
        """

    async def drain(self) -> None:
        """Return when every job that has begun has been reported; jobs not begun are returned at once."""

    async def stop(self, timeout: float) -> None:
        """End the processes: those that do not leave in ``timeout`` seconds are killed and their jobs reported lost."""


#: Enters the body of a task: ``with soft_limit(seconds):`` raises SoftTimeLimitExceeded in it when the time is up.
#: None sets no time, but lets SIGUSR1 raise it. Nothing else of the runner may be inside, and it is not nested.
SoftLimit: TypeAlias = "Callable[[float | None], AbstractContextManager[None]]"
#: Tells the supervisor that the present job is to be ended so many seconds from now. Called before the body begins.
HardLimit: TypeAlias = "Callable[[float], None]"


class AsyncSlot(Protocol):
    """What a job on a shared event loop can have done for it."""

    #: What the job is called when it holds up the loop.
    title: str
    #: Whether the job is being ended on request; what its body makes of it is not reported.
    terminated: bool

    async def run(self, coroutine: Coroutine[Any, Any, T], soft_limit: float | None) -> T:
        """Await the task's body, with SoftTimeLimitExceeded raised in it after so many seconds."""

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run something that blocks in a thread, where ``soft_limit`` serves."""


class JobRunner(Protocol):
    """What a pool process does with a job; made from the app by ``execution.runner``.

    The pool sets both limits before ``process_init``. A limit in ``Work`` has been told to the supervisor already;
    a hard limit that only the message or the task knows is told by calling ``hard_limit``.
    """

    soft_limit: SoftLimit
    hard_limit: HardLimit

    def process_init(self) -> None:
        """Called once in each new pool process, before its first job."""

    async def aopen(self) -> None:
        """Called on the loop of a process whose slots are tasks of it, before ``process_init``."""

    async def aclose(self) -> None:
        """Called on that loop when the process leaves by itself, before ``process_exit``."""

    async def arun(self, work: Work, slot: AsyncSlot) -> Report:
        """As ``run``, on a loop that many jobs share: nothing may hold it up. Lets CancelledError through."""

    def slot_init(self) -> None:
        """Called in the thread of each slot, before its first job."""

    def slot_exit(self) -> None:
        """Called in the thread of a slot that leaves."""

    def run(self, work: Work) -> Report:
        """Run one attempt and say how it ended. Never raises for the task's own errors."""

    def follow(self, work: Work, report: Report) -> Work | None:
        """The job that may begin at once in the slot of one that has ended, and is all that follows it; else None.

        It has the ended one's number. Asked only about jobs that may run on, and before their report is sent.
        """

    def process_exit(self, exitcode: int) -> None:
        """Called when a pool process leaves by itself."""
