"""What a running worker is made of. Each part is made when it is first asked for, from those it works with.

link        the one connection to the broker
pool        processes that run jobs
intake      link → headers → admission → pool
completion  pool → settlement
settlement  results, what follows, and the end of each delivery, in batches → link
leases      keeps what is held, takes over what dead workers held
chords      completes those whose last part has ended
broadcasts  copies of what is sent to all workers → intake, where the broker makes no queues for them
control     hears orders and questions, see ``commands``
events      tells monitors what happens
elections   chooses one of the workers, where that is ordered
scaling     grows and shrinks the pool
"""

from __future__ import annotations

import asyncio
import logging
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

from umbel.brokers.base import FetchPlan
from umbel.core.ids import new_id
from umbel.core.pidbox import command_exchange
from umbel.execution.chords import chord_realm
from umbel.execution.report import Reporter
from umbel.worker.autoscale import Scaling, autoscaler_class
from umbel.worker.chords import Chords
from umbel.worker.commands import COMMANDS, Commander
from umbel.worker.completion import Completion
from umbel.worker.control import ControlListener
from umbel.worker.early import EarlyAcks
from umbel.worker.elections import Elections, addresses
from umbel.worker.events import Events
from umbel.worker.holding import Holding
from umbel.worker.intake import Intake
from umbel.worker.leases import Leases
from umbel.worker.ledger import Ledger
from umbel.worker.link import BrokerLink, ConnectionPolicy
from umbel.worker.listener import Listener
from umbel.worker.losses import Losses
from umbel.worker.narrator import Narrator
from umbel.worker.pace import Pace
from umbel.worker.rates import RateLimits
from umbel.worker.refusals import Refusals
from umbel.worker.revocations import Revocations
from umbel.worker.settlement import Settlement
from umbel.worker.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from umbel.app import Umbel
    from umbel.pools.base import Pool
    from umbel.worker.options import WorkerOptions
    from umbel.worker.revoked import RevokedIds, RevokedStamps

logger = logging.getLogger("celery.worker.consumer")

#: Jobs that wait in the worker for a near time; more are parked in the broker.
HOLDING_ROOM: Final = 1000


class Parts:
    """The parts of one worker, made in its event loop.

    Parts that work with each other in both directions are given a function that finds the other when it is called.

    Args:
        app, options: of the worker.
        pool: runs its jobs.
        queues: it takes from.
        revoked, revoked_stamps: what must not run.
        shut_down: asks it to stop as on TERM.
    """

    def __init__(
        self,
        app: Umbel,
        options: WorkerOptions,
        *,
        pool: Pool,
        queues: Sequence[str],
        revoked: RevokedIds,
        revoked_stamps: RevokedStamps,
        shut_down: Callable[[], None],
    ) -> None:
        self._app = app
        self._options = options
        self._queues = tuple(queues)
        self._revoked = revoked
        self._revoked_stamps = revoked_stamps
        self._shut_down = shut_down
        self.pool = pool
        self.ledger = Ledger()

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """What runs for as long as the worker does; the first three are settling, renewing and fetching."""
        loops = [self.settlement.run(), self.leases.run(), self.intake.run(), self.chords.run()]
        loops += [listener.run() for listener in self.broadcasts]
        loops += [self.watchdog.run()]
        loops += [self.control.run()] if self.control is not None else []
        loops += [self.revocations.run()] if self.revocations.withdraws else []
        loops += [self.events.run()] if self.events is not None else []
        loops += [self.scaling.run()] if self.scaling is not None else []
        return loops

    @cached_property
    def link(self) -> BrokerLink:
        """The one connection to the broker."""
        broker, options = self._app.broker, self._options
        return BrokerLink(
            broker.consumer(f"{options.hostname}:{new_id()}", options.lease),
            display_url=broker.display_url,
            policy=self._policy,
            held_tags=lambda: self.ledger.held_tags() | self.settlement.held_tags() | self.losses.held_tags(),
            # Where there are no leases, what is held goes with the connection.
            on_void=None if broker.capabilities.leases else lambda: self.completion.on_void(),
        )

    @cached_property
    def _policy(self) -> ConnectionPolicy:
        conf = self._app.conf
        later, on_startup = conf.broker_connection_retry, conf.broker_connection_retry_on_startup
        return ConnectionPolicy(
            on_startup=later if on_startup is None else on_startup,
            later=later,
            max_retries=conf.broker_connection_max_retries,
            refused_too=conf.broker_channel_error_retry,
        )

    @cached_property
    def intake(self) -> Intake:
        """Takes messages in and keeps the pool supplied."""
        return Intake(
            link=self.link,
            plan=FetchPlan(self._queues),
            pool=self.pool,
            ledger=self.ledger,
            settlement=self.settlement,
            refusals=Refusals(self._app, self.reporter, self.settlement, self.narrator),
            narrator=self.narrator,
            pace=self.pace,
            holding=self.holding,
            early_acks=self.early_acks,
            chords=self.chords,
            tasks=self._app.tasks,
            revoked=self._revoked.table,
            revoked_stamps=self._revoked_stamps,
            rates=self.rates,
            lease_until=lambda: self.leases.until,
            runs_on=self._app.broker.capabilities.keeps and self.pool.runs_on,
            options=self._options,
            clock=self._app.broker.clock,
        )

    @cached_property
    def broadcasts(self) -> list[Listener]:
        """Hear what is sent to the fanout exchanges of its queues; none where the broker has queues for that."""
        broker, table = self._app.broker, self._app.amqp.queues
        if broker.capabilities.definitions or not broker.capabilities.fanout:
            return []
        return [
            Listener(
                f"Broadcasts to {bound.exchange}",
                broker.subscriber(bound.exchange, bound.routing_key),
                partial(self.intake.hear, bound.queue),
                self._policy,
                logger,
            )
            for bound in table.bindings()
            if bound.exchange_type == "fanout" and bound.queue in self._queues
        ]

    @cached_property
    def holding(self) -> Holding:
        """Jobs that may run soon but not yet."""
        return Holding(HOLDING_ROOM, lambda jobs: self.intake.release_held(jobs), self.link.consumer.now)

    @cached_property
    def rates(self) -> RateLimits:
        """How many jobs of a task may begin in a time."""
        conf = self._app.conf
        return RateLimits(
            self._app.tasks, conf.task_default_rate_limit, disabled=conf.worker_disable_rate_limits
        )

    @cached_property
    def pace(self) -> Pace:
        """How long the jobs of a task take."""
        options = self._options
        abreast = options.slots if options.pool == "asyncio" else 1
        return Pace(options.brief_seconds, options.reserve_seconds, abreast)

    @cached_property
    def completion(self) -> Completion:
        """Hears from the pool."""
        return Completion(
            ledger=self.ledger,
            settlement=self.settlement,
            intake=self.intake,
            losses=self.losses,
            pace=self.pace,
            chords=self.chords,
            narrator=self.narrator,
            tasks=self._app.tasks,
        )

    @cached_property
    def losses(self) -> Losses:
        """Settles jobs whose process ended under them."""
        return Losses(self.reporter, self.settlement, self.narrator, self._options)

    @cached_property
    def reporter(self) -> Reporter:
        """Makes the reports of jobs that did not end by themselves."""
        return Reporter(self._app, self._options.hostname)

    @cached_property
    def settlement(self) -> Settlement:
        """The only finisher."""
        broker, backend = self._app.broker, self._app.backend
        return Settlement(
            self.link,
            backend,
            shared_store=broker.store == backend.store != "",
            keeps_letters=self._app.conf.dead_letter_enabled,
            on_settled=lambda: self.intake.made_room(),
            on_due=lambda due: self.chords.take_up(due),
        )

    @cached_property
    def leases(self) -> Leases:
        """Renews what is held, and takes over what others held."""
        return Leases(self.link, self._options.lease, lambda: self.completion.on_lapse())

    @cached_property
    def watchdog(self) -> Watchdog:
        """Notices that messages wait which are not fetched."""
        leases = self._app.broker.capabilities.leases
        return Watchdog(self.link, self.intake, self._waiting_in, self._options.lease, gently=not leases)

    def _waiting_in(self, queue: str) -> int:
        """Messages that wait for anybody; what waits for another consumer, the single active one, is not ours."""
        table = self._app.amqp.queues
        arguments = (table[queue].queue_arguments if queue in table else None) or {}
        return 0 if arguments.get("x-single-active-consumer") else self._app.broker.depth(queue)

    @cached_property
    def early_acks(self) -> EarlyAcks:
        """Acknowledges brief jobs that turn out long."""
        return EarlyAcks(self.pool, self.ledger, lambda started: self.completion.on_started(started))

    @cached_property
    def chords(self) -> Chords:
        """Completes chords whose last part has ended."""
        return Chords(
            backend=self._app.backend,
            pool=self.pool,
            ledger=self.ledger,
            settlement=self.settlement,
            realms=lambda: [chord_realm(self._app, queue) for queue in self.intake.plan.queues],
            dispatch=lambda: self.intake.dispatch(),
        )

    @cached_property
    def scaling(self) -> Scaling | None:
        """Grows and shrinks the pool with the work; None where it has one size."""
        if self._options.autoscale is None:
            return None
        return Scaling(
            autoscaler_class(self._app.conf.worker_autoscaler),
            self._options.autoscale,
            pool=self.pool,
            waiting=self.intake.waiting,
            last_number=lambda: self.ledger.last,
            depth=self._depth,
            on_resized=self.intake.made_room,
            process_per_slot=self._options.pool == "prefork",
        )

    def _depth(self) -> int:
        return sum(self._app.broker.depth(queue) for queue in self.intake.plan.queues)

    @cached_property
    def narrator(self) -> Narrator:
        """Tells loggers, receivers of signals and monitors."""
        return Narrator(self._options.hostname, self.events, self._app.accept)

    @cached_property
    def events(self) -> Events | None:
        """Sends events; None where none are wanted, or the broker cannot broadcast."""
        app, conf, options = self._app, self._app.conf, self._options
        if not app.broker.capabilities.fanout or not (options.task_events or options.heartbeat_interval):
            return None
        return Events(
            hostname=options.hostname,
            broker=app.broker,
            exchange=conf.event_exchange,
            serializer=conf.event_serializer,
            tasks=options.task_events,
            interval=options.heartbeat_interval,
            busy=lambda: (len(self.pool.begun()), self.completion.totals.total()),
            tick=app.clock.forward,
        )

    @cached_property
    def revocations(self) -> Revocations:
        """Knows what the broker keeps of revoked tasks."""
        app = self._app
        return Revocations(
            app.broker,
            self._revoked,
            self._revoked_stamps,
            app.conf.revoked_expires or 0.0,
            withdraw=lambda: self.link.withdraw(self.intake.plan.queues),
            drop=lambda deliveries: self.intake.drop_revoked(deliveries),
        )

    @cached_property
    def elections(self) -> Elections | None:
        """Its part in elections among workers; None where it takes none."""
        if not self._options.elections:
            return None
        return Elections(self._options.hostname, self.events, {"task": self._send_task})

    def _send_task(self, task: Any) -> None:
        self._app.signature(task).apply_async()

    @cached_property
    def control(self) -> ControlListener | None:
        """Hears orders; None where remote control is off, or the broker cannot broadcast."""
        app, conf = self._app, self._app.conf
        if not (conf.worker_enable_remote_control and app.broker.capabilities.fanout):
            return None
        exchange = command_exchange(conf.control_exchange)
        also = addresses(conf.event_exchange) if self.elections is not None else []
        return ControlListener(
            subscription=app.broker.subscriber(exchange, also=also),
            elections=self.elections,
            commander=self._commander(),
            commands=COMMANDS,
            broker=app.broker,
            settlement=self.settlement,
            policy=self._policy,
            accept=app.accept,
            serializer=conf.task_serializer,
            on_return=self.revocations.recall,
        )

    def _commander(self) -> Commander:
        return Commander(
            app=self._app,
            hostname=self._options.hostname,
            options=self._options,
            revoked=self._revoked,
            revoked_stamps=self._revoked_stamps,
            revocations=self.revocations,
            link=self.link,
            ledger=self.ledger,
            holding=self.holding,
            intake=self.intake,
            completion=self.completion,
            rates=self.rates,
            pool=self.pool,
            scaling=self.scaling,
            reporter=self.reporter,
            settlement=self.settlement,
            clock=self._app.clock,
            events=self.events,
            elections=self.elections,
            shut_down=self._shut_down,
            loop=asyncio.get_running_loop(),
        )
