"""Messages come in here: fetched in batches, their headers read, admitted, and given to the pool.

The body is never decoded here. What cannot be read, or names no task known to this worker, is refused: to the dead
letters with its reason, logged once and counted; the worker goes on.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import TYPE_CHECKING

from umbel.brokers.base import Delivery, Disposition, FetchPlan
from umbel.core.clock import boot_seconds
from umbel.core.protocol import peek
from umbel.errors import ContentDisallowed, DecodeError, InvalidTaskError
from umbel.pools.base import Work
from umbel.worker.admission import Drop, Hold, admit
from umbel.worker.isolation import Isolation
from umbel.worker.vetting import Vetting

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from umbel.core.clock import BrokerClock
    from umbel.core.protocol import Header
    from umbel.execution.job import RunnableTask
    from umbel.pools.base import Pool
    from umbel.worker.chords import Chords
    from umbel.worker.early import EarlyAcks
    from umbel.worker.holding import Holding
    from umbel.worker.ledger import Job, Ledger
    from umbel.worker.link import BrokerLink
    from umbel.worker.narrator import Narrator
    from umbel.worker.options import WorkerOptions
    from umbel.worker.pace import Pace
    from umbel.worker.rates import RateLimits
    from umbel.worker.refusals import Refusals
    from umbel.worker.revoked import RevokedStamps
    from umbel.worker.settlement import Settlement

#: Seconds one fetch waits for messages before it looks again; the broker wakes it long before.
FETCH_TIMEOUT = 30.0

#: Seconds after which jobs that were fetched because they seemed brief, and have not moved, go back to their queues.
HOPE = 0.25

#: Deliveries in one fetch at the most: more would make the server's other clients wait.
FETCH_BATCH = 500

#: Jobs that may wait here while more is broadcast to this worker; beyond that, what is broadcast waits unread.
BROADCAST_ROOM = 1000


class Intake:
    """Keeps the pool supplied and never holds more than the prefetch limit allows."""

    def __init__(
        self,
        *,
        link: BrokerLink,
        plan: FetchPlan,
        pool: Pool,
        ledger: Ledger,
        settlement: Settlement,
        refusals: Refusals,
        narrator: Narrator,
        pace: Pace,
        holding: Holding,
        early_acks: EarlyAcks,
        chords: Chords,
        tasks: Mapping[str, RunnableTask],
        revoked: Collection[str],
        revoked_stamps: RevokedStamps,
        rates: RateLimits,
        lease_until: Callable[[], float],
        runs_on: bool,
        options: WorkerOptions,
        clock: BrokerClock,
    ) -> None:
        self.plan = plan
        self._link = link
        self._pool = pool
        self._ledger = ledger
        self._settlement = settlement
        self._refusals = refusals
        self._narrator = narrator
        self._pace = pace
        self._holding = holding
        self._early_acks = early_acks
        self._chords = chords
        self._tasks = tasks
        self._revoked = revoked
        self._revoked_stamps = revoked_stamps
        self._rates = rates
        self._lease_until = lease_until
        #: Whether a pool process may begin by itself what follows a job, where nothing that is asked here concerns it.
        self.runs_on = runs_on
        self._multiplier = options.prefetch_multiplier
        self._park_after = options.park_after
        self._limits = (options.time_limit, options.soft_time_limit)
        self._clock = clock
        self._now = clock.now
        self._ready: deque[Job] = deque()
        self._vetting = Vetting(link, refusals, ledger, self._vetted)
        self._isolation = Isolation(ledger, shared=pool.shares)
        self._room_event = asyncio.Event()
        self._brief_early = False
        self._hope: asyncio.TimerHandle | None = None
        self._moved = False
        self._loop_task: asyncio.Task[None] | None = None
        self._replanned = False
        self._cut_off = False
        self.stopping = False

    async def run(self) -> None:
        """Fetch until cancelled or told to stop."""
        self._loop_task = asyncio.current_task()
        while not self.stopping:
            try:
                if self._cut_off:
                    # What the fetch that was cut off may have taken nobody here knows of.
                    await self._link.reconcile()
                    self._cut_off = False
                await self._fetch_until_told()
            except asyncio.CancelledError:
                if not self._replanned or self._loop_task is None:
                    raise
                # The queues have changed, perhaps again while that was being seen to.
                self._loop_task.uncancel()
                self._replanned, self._cut_off = False, True

    async def _fetch_until_told(self) -> None:
        while not self.stopping:
            room = self._room() if self.plan.queues else 0
            if room <= 0:
                self._room_event.clear()
                await self._room_event.wait()
                continue
            self.receive(await self._link.fetch(self.plan, min(room, FETCH_BATCH), FETCH_TIMEOUT))

    def take_from(self, queues: tuple[str, ...]) -> None:
        """Fetch from these queues from now on; none of them is right too."""
        self.plan = FetchPlan(queues)
        if self._loop_task is not None and not self.stopping:
            self._replanned = True
            self._loop_task.cancel()

    @property
    def prefetch_count(self) -> int:
        """Jobs that this worker may have in hand; 0 for any number."""
        return self._pool.size * self._multiplier

    def receive(self, deliveries: Sequence[Delivery]) -> None:
        """Read, admit and pass on a batch."""
        now = self._now()
        with self._narrator.batch():
            for delivery in deliveries:
                self._take_in(delivery, now)
        self.dispatch()

    async def hear(self, queue: str, payload: bytes) -> None:
        """Take in this worker's copy of what was broadcast: nothing holds it, as if it were acknowledged already."""
        while len(self._ready) >= BROADCAST_ROOM and not self.stopping:
            self._room_event.clear()
            await self._room_event.wait()
        if self.stopping:
            return
        with self._narrator.batch():
            self._take_in(Delivery(b"", queue, payload), self._now(), copy=True)
        self.dispatch()

    def drop_revoked(self, deliveries: Sequence[Delivery]) -> None:
        """End messages that were taken out of queues because their tasks are revoked."""
        with self._narrator.batch():
            for delivery in deliveries:
                job = self._read(delivery)
                if job is not None:
                    self._narrator.received(job, will_run=False)
                    self._ledger.pop(job.seq)
                    self._refusals.dropped(job, "revoked", "")

    def _take_in(self, delivery: Delivery, now: float, *, copy: bool = False) -> None:
        try:
            job = self._read(delivery)
            if job is not None:
                if copy:
                    self._ledger.acknowledge(job)
                self._admit(job, now)
        except Exception as error:
            # Of whatever kind: one message must not end the worker, and then the next that takes it, and so on.
            self._ledger.drop(delivery)
            self._refusals.broken(delivery, error)

    def dispatch(self) -> None:
        """Give ready jobs to the pool: one to each free slot, and short ones beyond that, to share frames.

        None while this worker's lease may have lapsed: a peer may have them by now.
        """
        ready = self._ready
        if not (ready or self._chords.waiting) or self.stopping or self._isolation.is_on:
            return
        until = self._lease_until()
        if boot_seconds() > until:
            return
        if works := self._next_works(ready, until):
            self._pool.submit(works)
            self._moved = True
            if self._brief_early:
                self._brief_early = False
                self._early_acks.watch(asyncio.get_running_loop())
        if self._hope is None and self._surplus() > 0:
            self._moved = False
            self._hope = asyncio.get_running_loop().call_later(HOPE, self._give_up_hope)

    def _next_works(self, ready: deque[Job], until: float) -> list[Work]:
        free = self._pool.free()
        room = free + self._pool.depth()
        # Chords before jobs: others may wait for what they send.
        works = self._chords.works(free)
        free, room = free - len(works), room - len(works)
        while ready and room > 0:
            job = ready[0]
            brief = self._pace.is_brief(job.header.task)
            suspect = job.delivery.redelivered and self._vetting.wants(job)
            drop = self._drop_of(job)
            if free <= 0 and (suspect or drop or not brief):
                break  # in its turn
            if drop:
                ready.popleft()
                self._ledger.pop(job.seq)
                self._refusals.dropped(job, drop.reason, drop.detail)
                continue
            if self._isolation.wants(job):
                return works or self._work_alone(job, until)
            free, room = free - 1, room - 1
            ready.popleft()
            if suspect:
                self._vetting.take(job)
            else:
                works.append(self._work(job, brief, until))
        return works

    def _work_alone(self, job: Job, until: float) -> list[Work]:
        """The first in line, which is to run alone; nothing, and nothing else, while others run."""
        self._leave_to_others([each for each in self._ready if each is not job])
        if self._in_pool() > 0:
            return []
        self._ready.remove(job)
        self._isolation.begin(job)
        return [self._work(job, False, until)]

    def _in_pool(self) -> int:
        """Jobs that the pool was given and that have not ended."""
        return len(self._ledger) - len(self._ready) - len(self._holding) - len(self._vetting)

    def _vetted(self, jobs: Sequence[Job]) -> None:
        """Jobs of which it was asked how often they were lost; others may have the slots by now."""
        self.put_back(jobs)
        self.made_room()

    def _give_up_hope(self) -> None:
        """Jobs beyond the prefetch limit that have not moved for a while are left to other workers."""
        self._hope = None
        surplus = self._surplus()
        if self.stopping or surplus <= 0:
            return
        if not self._moved:
            self._pace.forget()
            self._leave_to_others(list(self._ready)[-surplus:])
            return
        self._moved = False
        self._hope = asyncio.get_running_loop().call_later(HOPE, self._give_up_hope)

    def _leave_to_others(self, jobs: Sequence[Job]) -> None:
        """Give jobs back that wait here; not copies, which no other worker would run."""
        jobs = [job for job in jobs if not job.acked]
        gone = {job.seq for job in jobs}
        kept = [job for job in self._ready if job.seq not in gone]
        self._ready.clear()
        self._ready.extend(kept)
        for job in jobs:
            self._ledger.pop(job.seq)
        self._settlement.add_all(requeue_all(jobs))

    def made_room(self) -> None:
        """Called when jobs have ended: the pool may take more, and so may the broker give more."""
        self.dispatch()
        if not self._room_event.is_set() and self._room() > 0:
            self._room_event.set()

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Jobs that a pool process was given and did not begin; first in line again."""
        for job in jobs:
            self._isolation.give_up(job)
        self._ready.extendleft(reversed(jobs))

    def release_held(self, jobs: list[Job]) -> None:
        """Jobs whose time has come."""
        now = self._now()
        for job in jobs:
            self._admit(job, now, first=False)
        self.dispatch()

    def stop(self) -> list[Job]:
        """Take no more; gives back the jobs that no pool process has."""
        self.stopping = True
        if self._hope is not None:
            self._hope.cancel()
        self._room_event.set()
        return self.take_waiting()

    def waiting(self) -> tuple[int, int]:
        """How many jobs wait for a slot, and the number of the first; zeros where none does."""
        return len(self._ready), self._ready[0].seq if self._ready else 0

    def take_waiting(self) -> list[Job]:
        """Give up the jobs that no pool process has."""
        jobs = self._vetting.clear() + list(self._ready) + self._holding.clear()
        self._ready.clear()
        return jobs

    @property
    def _limit(self) -> int:
        """Jobs that may wait here whatever they are."""
        return self._pool.size * self._multiplier if self._multiplier else sys.maxsize

    def _surplus(self) -> int:
        """Jobs beyond that which no pool process has."""
        return min(len(self._ready), self._in_hand() - self._limit)

    def _in_hand(self) -> int:
        """Jobs that count for the prefetch limit.

        One that was acknowledged when it began does not: as with Celery another may wait in its place, and RabbitMQ
        does not throw away, unseen, a message that expires while it waits for this worker. A multiplier of 1 asks that
        nothing waits here which somebody else could begin.
        """
        jobs = len(self._ledger) - len(self._holding)
        return jobs if self._multiplier == 1 else jobs - self._ledger.acknowledged

    def _room(self) -> int:
        """How many deliveries to ask for now; zero while brief jobs soon make more of it."""
        if self._settlement.is_full() or self._isolates():
            return 0
        if self._multiplier == 0:
            return FETCH_BATCH
        reserve = self._pace.reserve(self._pool.size)
        limit = max(self._limit, reserve)
        room = limit - self._in_hand()
        if reserve and room * 4 < limit and self._ready:
            return 0
        return room

    def _isolates(self) -> bool:
        """Whether a job runs alone, or is to, so that nothing else can begin."""
        return self._isolation.is_on or (bool(self._ready) and self._isolation.wants(self._ready[0]))

    def _read(self, delivery: Delivery) -> Job | None:
        try:
            header = peek(delivery.payload)
            if not header.task:
                header = self._refusals.upgrade(delivery)
        except (DecodeError, ContentDisallowed, InvalidTaskError) as error:
            self._refusals.unreadable(delivery, error)
            return None
        task = self._tasks.get(header.task)
        if task is None:
            self._refusals.unknown(delivery, header)
            return None
        return self._ledger.add(delivery, header, task)

    def _admit(self, job: Job, now: float, *, first: bool = True) -> None:
        rate_delay = None if job.paced or not self._rates else self._rate_delay
        decision = admit(job.header, now, self._revoked, rate_delay, self._revoked_stamps, job.delivery.due)
        far = isinstance(decision, Hold) and (decision.until - now > self._park_after or self._holding.full())
        if isinstance(decision, Hold) and far and not job.acked:
            # The worker that takes it when it is due says that it was received.
            self._ledger.pop(job.seq)
            self._settlement.add(Disposition(job.delivery.tag, "retry_later", due=decision.until))
            return
        if first:
            self._narrator.received(job, will_run=not isinstance(decision, Drop))
        match decision:
            case Hold(until, paced):
                job.paced = paced
                self._holding.keep(job, until, asyncio.get_running_loop())
            case Drop(reason, detail):
                self._ledger.pop(job.seq)
                self._refusals.dropped(job, reason, detail)
            case _:
                self._ready.append(job)

    def _rate_delay(self, task: str, now: float) -> float:
        return self._rates.delay(task, now, 0.0 if self._holding.full() else self._park_after)

    def _drop_of(self, job: Job) -> Drop | None:
        """Why it may not run any more: it waited, and may have expired or been revoked meanwhile."""
        header = job.header
        if header.expires is None and header.id not in self._revoked and not self._revoked_stamps:
            return None
        decision = admit(header, self._now(), self._revoked, None, self._revoked_stamps)
        return decision if isinstance(decision, Drop) else None

    def _work(self, job: Job, brief: bool, until: float) -> Work:
        delivery = job.delivery
        hard, soft = time_limits(job.header, job.task, self._limits)
        unacked = job.early and not job.acked
        if unacked and brief:
            self._brief_early = True
        return Work(
            job.seq,
            delivery.payload,
            delivery.queue,
            delivery.redelivered,
            announce=self._narrator.wants_starts or (unacked and not brief),
            brief=brief and hard is None,
            told=self._narrator.wants_starts,
            time_limit=hard,
            soft_time_limit=soft,
            runs_on=brief and not (hard or soft) and self._may_run_on(),
            begin_by=0.0 if job.acked else until,
            ahead=self._clock.ahead,
        )

    def _may_run_on(self) -> bool:
        """Whether nobody is served before what follows a job, and nothing that only this worker knows forbids it."""
        return self.runs_on and not (
            self._ready or self._revoked or self._revoked_stamps or self._rates or self._narrator.wants_all
        )

    def has_begun(self, job: Job) -> None:
        """A job has begun that has not come this way: it is acknowledged as early as any other."""
        if job.early:
            self._early_acks.watch(asyncio.get_running_loop())


def time_limits(
    header: Header, task: RunnableTask, defaults: tuple[float | None, float | None]
) -> tuple[float | None, float | None]:
    """The hard and soft limit of a job: the message's, else the task's, else the worker's; seconds."""
    hard, soft = header.timelimit
    return hard or task.time_limit or defaults[0], soft or task.soft_time_limit or defaults[1]


def requeue_all(jobs: Sequence[Job]) -> list[Disposition]:
    """Back to the front of their queues, in order, unless they were acknowledged when they began."""
    # Each goes before those that went back already.
    return [Disposition(job.delivery.tag, "requeue", front=True) for job in reversed(jobs) if not job.acked]
