"""How each kind of fault is done, and undone after a while.

A fault is a generator: it does its deed, gives the seconds after which it wants to go on, and undoes it. What it did is
in the stage's records then, so that the checker knows which attempts it excuses.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import NamedTuple, TypeVar

from chaos import journal
from chaos.clocks import Clocks
from chaos.crew import Crew, Member, freeze, thaw
from chaos.excuses import EVERYBODY, Fault
from chaos.schedule import Planned
from chaos.workload import POISON_MARKS, POISONS
from chaos.world import RabbitChaos, SentinelChaos, SqliteChaos, World
from tests.support.processes import is_alive, kill, tree, wait_gone
from tests.support.proxy import TcpProxy
from tests.support.servers import RedisServer, ServerProcess
from tests.support.waiting import NeverHappenedError
from umbel.errors import OperationalError

LEASE = 10.0  #: seconds, as Umbel's setting ``worker_lease_duration`` is by default
#: From so many seconds without its broker on, a worker's lease may have lapsed before it is renewed again.
_OUT_OF_TOUCH = 0.5 * LEASE
_HOUR = 3600
_ORPHANS = 20.0  #: seconds in which the processes of a killed supervisor must have ended by themselves
_START = 90.0  #: seconds that a server may take to begin, and to end when it is told to
_POLL = 0.1  #: seconds between two looks whether it has
_ALL = 0.7  #: ``Planned.size`` from which on a fault of the network meets everybody


Found = TypeVar("Found")


class NobodyError(Exception):
    """There is nobody to do it to at this moment."""


@dataclass
class Stage:
    """Everything that faults are done to, and the record of them."""

    world: World
    crew: Crew
    clocks: Clocks
    directory: Path
    faults: list[Fault] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)  #: by kind
    busy: set[str] = field(default_factory=set)  #: servers to which something is being done
    poisons: Iterator[int] = field(default_factory=lambda: count(POISON_MARKS))

    def choose(self, roles: str, planned: Planned) -> Member:
        """Whom the plan picks, of those that can be harmed."""
        members = [member for role in roles.split() for member in self.crew.of(role)]
        if not members:
            raise NobodyError
        return members[int(planned.pick * len(members))]

    def ended(self, kind: str, since: float, pids: frozenset[int], host: str = "") -> None:
        """Record that processes were ended."""
        self.faults.append(Fault(kind, since, journal.now(), pids=pids, host=host))

    @contextmanager
    def out_of_touch(self, kind: str, *members: Member, connections: bool = True) -> Iterator[None]:
        """Record for how long workers (all of them, if none is named) had no broker.

        It excuses what they run where the broker gives that to others meanwhile: as soon as ``connections`` end, or
        when their leases have lapsed.
        """
        since = journal.now()
        hosts = [member.name for member in members] or [EVERYBODY]
        yield
        until = journal.now()
        at_once = connections and self.world.returns_at_once
        if at_once or until - since > _OUT_OF_TOUCH:
            self.faults += [Fault(kind, since, until, host=host, ends_pool=False) for host in hosts]
        else:
            self.faults.append(Fault(kind, since, until, ends_pool=False))

    @contextmanager
    def forgotten(self, kind: str) -> Iterator[None]:
        """Record for how long a broker that may know a moment less came in another's place.

        That excuses what every worker ran meanwhile, and what had just ended: its settlement may be forgotten.
        """
        since = journal.now()
        yield
        self.faults.append(Fault(kind, since, journal.now(), host=EVERYBODY, ends_pool=False))

    @contextmanager
    def hampered(self, kind: str) -> Iterator[None]:
        """Record for how long the broker was hard to reach, which excuses nothing, but has what ended settled late."""
        since = journal.now()
        yield
        self.faults.append(Fault(kind, since, journal.now(), ends_pool=False))

    def server(self, role: str) -> ServerProcess:
        """The server of a role, unless something is being done to it."""
        if role in self.busy:
            raise NobodyError
        return self.world.servers[role]

    @contextmanager
    def only_one(self, role: str) -> Iterator[ServerProcess]:
        """Keep other faults from a server while this one lasts."""
        server = self.server(role)
        self.busy.add(role)
        try:
            yield server
        finally:
            self.busy.discard(role)


Deed = Callable[[Stage, Planned], Iterator[float]]


def end_pool_process(number: int) -> Deed:
    """A signal to one pool process of a worker."""

    def deed(stage: Stage, planned: Planned) -> Iterator[float]:
        worker = stage.choose("worker", planned)
        children = worker.running.children()
        if not children:
            raise NobodyError
        victim = children[int(planned.size * len(children))]
        pids = frozenset(tree(victim))  # the one that they are forked from takes them along
        since = journal.now()
        kill(victim, number)
        yield 0.0 if number == signal.SIGKILL else 5.0  # one that is told to end may finish its job
        stage.ended(planned.kind, since, pids, worker.name)

    return deed


def stop_pool_process(stage: Stage, planned: Planned) -> Iterator[float]:
    """One pool process stands still for up to five seconds."""
    worker = stage.choose("worker", planned)
    children = worker.running.children()
    if not children:
        raise NobodyError
    victim = children[int(planned.size * len(children))]
    freeze(victim)
    yield 0.5 + 4.5 * planned.size
    thaw(victim)


def kill_supervisor(stage: Stage, planned: Planned) -> Iterator[float]:
    """The supervisor alone; its pool processes must end by themselves."""
    worker = stage.choose("worker", planned)
    worker.expected = True
    members = worker.running.members()
    since = journal.now()
    kill(worker.running.pid, signal.SIGKILL)
    try:
        wait_gone(members, timeout=_ORPHANS)
    except AssertionError:
        left = [pid for pid in members if is_alive(pid)]
        stage.crew.never_ended.append(f"{worker.name}: its processes {left} outlived their supervisor")
        worker.running.close()
    stage.ended(planned.kind, since, frozenset(members), worker.name)
    yield 0.0


def kill_worker(stage: Stage, planned: Planned) -> Iterator[float]:
    """All processes of a worker at one instant."""
    worker = stage.choose("worker", planned)
    worker.expected = True
    members = frozenset(worker.running.members())
    since = journal.now()
    worker.running.kill9()
    stage.ended(planned.kind, since, members, worker.name)
    yield 0.0


def tell_to_end(role: str) -> Deed:
    """SIGTERM: it has to finish and to end by itself."""

    def deed(stage: Stage, planned: Planned) -> Iterator[float]:
        stage.crew.tell_to_end(stage.choose(role, planned))
        yield 0.0

    return deed


def kill_member(role: str) -> Deed:
    """SIGKILL of a producer or of beat."""

    def deed(stage: Stage, planned: Planned) -> Iterator[float]:
        member = stage.choose(role, planned)
        member.expected = True
        since, pids = journal.now(), frozenset(member.running.members())
        member.running.kill9()
        stage.ended(planned.kind, since, pids)
        yield 0.0

    return deed


def stop_member(role: str, longest: float) -> Deed:
    """SIGSTOP of one process alone, and SIGCONT after a while."""

    def deed(stage: Stage, planned: Planned) -> Iterator[float]:
        member = stage.choose(role, planned)
        process = member.running
        member.frozen = True
        with stage.out_of_touch(planned.kind, member, connections=False):
            freeze(process.pid)
            yield 1.0 + (longest - 1.0) * planned.size
            thaw(process.pid)
        member.frozen = False

    return deed


def kill_server(role: str) -> Deed:
    """SIGKILL, and a start with the same data after up to three seconds."""

    def deed(stage: Stage, planned: Planned) -> Iterator[float]:
        # What is held stays held while the results alone are away.
        record = stage.out_of_touch if role == "broker" else stage.hampered
        with stage.only_one(role) as server, record(planned.kind):
            server.kill9()
            yield 0.2 + 2.8 * planned.size
            yield from _start_again(server)

    return deed


def _start_again(server: ServerProcess) -> Iterator[float]:
    """Start it with the same data. A RabbitMQ node takes many seconds, in which other faults go on."""
    server.launch()
    yield from _when(server.is_up, f"an answer of {server.program}")


def restart_server(stage: Stage, planned: Planned) -> Iterator[float]:
    """The broker is told to end, and started again."""
    with stage.only_one("broker") as server, stage.out_of_touch(planned.kind):
        pid = server.pid
        kill(pid, signal.SIGTERM)
        yield from _when(lambda: not is_alive(pid), f"the end of {server.program}, which was told to")
        yield from _start_again(server)


def fail_over(*, freeze: bool) -> Deed:
    """The primary is killed, or stands still, until a replica is in its place; then it comes back as a replica."""

    def deed(stage: Stage, planned: Planned) -> Iterator[float]:
        world = stage.world
        assert isinstance(world, SentinelChaos)
        with stage.only_one("broker"):
            old = _primary(world)
            with stage.forgotten(planned.kind):
                if freeze:
                    old.freeze()
                else:
                    old.kill9()
                yield from _when(
                    lambda: world.primary() not in {None, old}, f"one in the place of {old.port}"
                )
                yield 3.0 * planned.size
                if freeze:
                    old.thaw()  # it takes itself for the primary until a sentinel tells it
                    yield from _when(world.in_step, f"the return of {old.port}")
            with stage.hampered(planned.kind):
                if not freeze:
                    yield from _start_again(old)
                yield from _when(world.in_step, f"the return of {old.port}")

    return deed


def kill_replica(stage: Stage, planned: Planned) -> Iterator[float]:
    """A replica is killed and comes back; the other one must do meanwhile."""
    world = stage.world
    assert isinstance(world, SentinelChaos)
    with stage.only_one("broker"), stage.hampered(planned.kind):
        replicas = world.replicas(_primary(world))
        victim = replicas[int(planned.pick * len(replicas))]
        victim.kill9()
        yield 0.2 + 4.8 * planned.size
        yield from _start_again(victim)
        yield from _when(world.in_step, f"the return of {victim.port}")


def _primary(world: SentinelChaos) -> RedisServer:
    """The primary, where all is well."""
    primary = world.in_step()
    if primary is None:
        raise NobodyError
    return primary


def _when(look: Callable[[], Found | None], what: str) -> Generator[float, None, Found]:
    """Let others go on until it is so."""
    deadline = time.monotonic() + _START
    while not (found := look()):
        if time.monotonic() > deadline:
            raise NeverHappenedError(f"waited {_START:g} s for {what}")
        yield _POLL
    return found


def stop_server(stage: Stage, planned: Planned) -> Iterator[float]:
    """The broker stands still; connections stay open."""
    with stage.only_one("broker") as server, stage.out_of_touch(planned.kind):
        server.freeze()
        yield 0.5 + 7.5 * planned.size
        server.thaw()


def _with_ways(stage: Stage, planned: Planned) -> list[Member]:
    """Who meets a fault of the network."""
    if planned.size < _ALL:
        return [stage.choose("worker producer beat", planned)]
    return [member for role in ("worker", "producer", "beat") for member in stage.crew.of(role)]


@contextmanager
def _on_ways(stage: Stage, planned: Planned) -> Iterator[list[Member]]:
    members = [member for member in _with_ways(stage, planned) if member.address is not None]
    if not members:
        raise NobodyError
    met = [] if any(member.address and member.address.shared for member in members) else members
    with stage.out_of_touch(planned.kind, *met):
        yield members


def cut(stage: Stage, planned: Planned) -> Iterator[float]:
    """Connections are reset."""
    with _on_ways(stage, planned) as members:
        for proxy in _proxies(members):
            proxy.cut()
        yield 0.0


def cut_in_frame(stage: Stage, planned: Planned) -> Iterator[float]:
    """Connections are reset in the middle of what is being sent."""
    with _on_ways(stage, planned) as members:
        for proxy in _proxies(members):
            proxy.cut_after(int(4000 * planned.pick), towards="server" if planned.size < 0.5 else "client")
        yield 3.0
        for proxy in _proxies(members):
            proxy.cut()


def half_open(stage: Stage, planned: Planned) -> Iterator[float]:
    """Nothing arrives any more and nobody is told; after a while the connections are reset."""
    with _on_ways(stage, planned) as members:
        for proxy in _proxies(members):
            proxy.freeze()
        yield 1.0 + 11.0 * planned.pick
        for proxy in _proxies(members):
            proxy.cut()
            proxy.thaw()


def refuse(stage: Stage, planned: Planned) -> Iterator[float]:
    """Connections are reset, and no new ones taken for a while."""
    with _on_ways(stage, planned) as members:
        for proxy in _proxies(members):
            proxy.refuse()
            proxy.cut()
        yield 0.5 + 5.5 * planned.pick
        for proxy in _proxies(members):
            proxy.accept()


def slow(stage: Stage, planned: Planned) -> Iterator[float]:
    """Everything arrives late."""
    yield from _slow_down(stage, planned, latency=0.01 + 0.3 * planned.pick)


def narrow(stage: Stage, planned: Planned) -> Iterator[float]:
    """Little goes through."""
    yield from _slow_down(stage, planned, rate=4_000 + 60_000 * planned.pick)


def _slow_down(stage: Stage, planned: Planned, *, latency: float = 0.0, rate: float = 0.0) -> Iterator[float]:
    members = _with_ways(stage, planned)
    with stage.hampered(planned.kind):
        for proxy in _proxies(members):
            proxy.slow_down(latency, rate)
        yield 2.0 + 6.0 * planned.pick
        for proxy in _proxies(members):
            proxy.slow_down()


def _proxies(members: list[Member]) -> list[TcpProxy]:
    addresses = [member.address for member in members if member.address is not None]
    return list({proxy: None for address in addresses for proxy in (*address.proxies, *address.shared)})


def close_connection(stage: Stage, planned: Planned) -> Iterator[float]:
    """An administrator closes a connection."""
    stage.server("broker")
    assert isinstance(stage.world, RabbitChaos)
    with stage.out_of_touch(planned.kind):
        stage.world.close_one_connection()
        yield 0.0


def fill_disk(stage: Stage, planned: Planned) -> Iterator[float]:
    """No byte is left for the broker's file."""
    assert isinstance(stage.world, SqliteChaos)
    if "disk" in stage.busy:
        raise NobodyError
    stage.busy.add("disk")
    with stage.world.full(), stage.hampered(planned.kind):
        yield 0.5 + 4.5 * planned.size
    stage.busy.discard("disk")


def jump(stage: Stage, planned: Planned) -> Iterator[float]:
    """A worker's clock jumps an hour, and back after a while."""
    name = stage.choose("worker", planned).name
    stage.clocks.jump(name, _HOUR if planned.size < 0.5 else -_HOUR)
    yield 3.0 + 5.0 * planned.pick
    stage.clocks.jump(name, 0)


def poison(name: str) -> Deed:
    """A task is sent that harms its process."""

    def deed(stage: Stage, planned: Planned) -> Iterator[float]:
        if stage.busy:
            raise NobodyError
        mark = next(stage.poisons)
        journal.write(stage.directory, f"tried {mark} {name}")
        try:
            result = stage.world.app.send_task(POISONS[name], (mark,), retry=False)
        except OperationalError as error:
            raise NobodyError from error
        journal.confirmed(stage.directory, mark, result.id)
        yield 0.0

    return deed


class Kind(NamedTuple):
    """A kind of fault: the group it belongs to, where it can be, and how it is done."""

    group: str
    brokers: tuple[str, ...]
    deed: Deed


_EVERYWHERE = ("redis", "sentinel", "rabbitmq", "sqlite")
_SERVERS = ("redis", "rabbitmq")
KINDS: dict[str, Kind] = {
    "pool-kill": Kind("pool", _EVERYWHERE, end_pool_process(signal.SIGKILL)),
    "pool-term": Kind("pool", _EVERYWHERE, end_pool_process(signal.SIGTERM)),
    "pool-stop": Kind("pool", _EVERYWHERE, stop_pool_process),
    "supervisor-kill": Kind("worker", _EVERYWHERE, kill_supervisor),
    "supervisor-stop": Kind("worker", _EVERYWHERE, stop_member("worker", 15.0)),
    "worker-kill": Kind("worker", _EVERYWHERE, kill_worker),
    "worker-term": Kind("worker", _EVERYWHERE, tell_to_end("worker")),
    "producer-kill": Kind("producer", _EVERYWHERE, kill_member("producer")),
    "producer-stop": Kind("producer", _EVERYWHERE, stop_member("producer", 6.0)),
    "producer-term": Kind("producer", _EVERYWHERE, tell_to_end("producer")),
    "beat-kill": Kind("beat", _EVERYWHERE, kill_member("beat")),
    "beat-stop": Kind("beat", _EVERYWHERE, stop_member("beat", 6.0)),
    "beat-term": Kind("beat", _EVERYWHERE, tell_to_end("beat")),
    "broker-kill": Kind("broker", _SERVERS, kill_server("broker")),
    "broker-restart": Kind("broker", _SERVERS, restart_server),
    "broker-stop": Kind("broker", _SERVERS, stop_server),
    "failover": Kind("broker", ("sentinel",), fail_over(freeze=False)),
    "failover-stop": Kind("broker", ("sentinel",), fail_over(freeze=True)),
    "replica-kill": Kind("broker", ("sentinel",), kill_replica),
    "backend-kill": Kind("broker", ("rabbitmq",), kill_server("backend")),
    "cut": Kind("network", _SERVERS, cut),
    "cut-in-frame": Kind("network", _SERVERS, cut_in_frame),
    "half-open": Kind("network", _SERVERS, half_open),
    "refuse": Kind("network", _SERVERS, refuse),
    "slow": Kind("network", _SERVERS, slow),
    "narrow": Kind("network", _SERVERS, narrow),
    "close": Kind("network", ("rabbitmq",), close_connection),
    "disk": Kind("disk", ("sqlite",), fill_disk),
    "clock": Kind("clock", _EVERYWHERE, jump),
    **{name: Kind("poison", _EVERYWHERE, poison(name)) for name in POISONS},
}
