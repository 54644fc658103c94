"""Retries, delays, callbacks and chains that cross from one library's workers to the other's."""

from __future__ import annotations

import datetime as dt
import itertools
import time

import pytest

from tests.interop.conftest import OTHER
from tests.interop.world import Side, World

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]


@pytest.fixture(scope="module")
def pair(own_server, interop_python, ground):
    """One worker of each kind on one queue, ``both``, with one slot each."""
    with World(own_server, interop_python, ground, worker_prefetch_multiplier=1) as world:
        workers = [world.worker(library, "-c1", "-Q", "both", ready=False) for library in ("celery", "umbel")]
        for worker in workers:
            worker.ready()
        yield world


def sig(task: str, *args, queue: str, immutable: bool = False, **options):
    """A signature as it is on the wire."""
    return {
        "task": task,
        "args": list(args),
        "kwargs": {},
        "options": {"queue": queue, **options},
        "subtask_type": None,
        "immutable": immutable,
    }


class TestRetries:
    def test_a_task_retries_and_succeeds(self, world: World, sender: Side, queue: str, mark: str):
        assert sender.value(sender.send("persist", mark, 3, queue=queue)) == 3
        other = OTHER[sender.library]
        assert world.notes(mark) == [[other, attempt] for attempt in range(4)]

    def test_a_task_gives_up_with_its_error(self, world: World, sender: Side, queue: str, mark: str):
        outcome = sender.outcome(sender.send("give_up", mark, queue=queue))
        assert (outcome["state"], outcome["error"]["type"]) == ("FAILURE", "ValueError")
        assert len(world.notes(mark)) == 3

    def test_without_an_error_of_its_own_it_gives_up_with_the_librarys(
        self, sender: Side, queue: str, mark: str
    ):
        outcome = sender.outcome(sender.send("persist", mark, 1000, queue=queue))
        assert (outcome["state"], outcome["error"]["type"]) == ("FAILURE", "MaxRetriesExceededError")

    def test_autoretry_with_backoff(self, world: World, sender: Side, queue: str, mark: str):
        assert sender.value(sender.send("stubborn", mark, 1, queue=queue)) == 1
        failed = sender.outcome(sender.send("stubborn", f"{mark}-2", 9, queue=queue))
        assert (failed["state"], failed["error"]["type"]) == ("FAILURE", "ConnectionError")
        assert len(world.notes(f"{mark}-2")) == 2

    def test_the_state_between_attempts_is_retry(self, world: World, sender: Side, queue: str, mark: str):
        task_id = sender.send("persist", mark, 1, 2, queue=queue)
        world.wait_for(lambda: sender.state(task_id)[0] == "RETRY", "RETRY")
        assert sender.value(task_id) == 1

    @pytest.mark.parametrize("library", ["celery", "umbel"])
    def test_attempts_are_shared_by_both_kinds_of_worker(self, pair: World, library: str, mark: str):
        """Celery's worker sends the next attempt first and stores RETRY then, not looking whether the outcome of that
        attempt has come between: its own race, which a pause before the attempt keeps out of here.
        """
        side = pair.side(library)
        names = [f"{mark}-{number}" for number in range(12)]
        ids = [side.send("persist", name, 8, 0.1, queue="both") for name in names]
        assert [side.value(task_id) for task_id in ids] == [8] * len(ids)
        ran = [pair.notes(name) for name in names]
        assert [[attempt for _, attempt in notes] for notes in ran] == [list(range(9))] * len(ids)
        changes = sum(a[0] != b[0] for notes in ran for a, b in itertools.pairwise(notes))
        assert changes > 0, "no attempt ran at the other library's worker"


class TestTimes:
    def test_countdown(self, sender: Side, queue: str):
        begun = time.time()
        assert sender.value(sender.send("echo", 1, queue=queue, countdown=1.2)) == 1
        assert 1.2 <= time.time() - begun < 5

    def test_eta_in_another_zone(self, sender: Side, queue: str):
        zone = dt.timezone(dt.timedelta(hours=5, minutes=30))
        eta = dt.datetime.now(zone) + dt.timedelta(seconds=1.2)
        assert sender.value(sender.send("echo", 1, queue=queue, eta=eta)) == 1
        assert dt.datetime.now(zone) >= eta

    def test_a_long_countdown_does_not_hold_up_the_rest(
        self, world: World, sender: Side, queue: str, mark: str
    ):
        for _ in range(20):
            sender.send("record", mark, queue=queue, countdown=3600, expires=7000)
        assert sender.value(sender.send("echo", "next", queue=queue)) == "next"
        assert world.notes(mark) == []


class TestPriorities:
    def test_what_is_urgent_runs_first(self, new_world, broker: str, library: str, mark: str):
        """On Redis 0 is the most urgent, and three priorities are one step; on RabbitMQ 9 is."""
        world = new_world(task_queue_max_priority=9)
        ids = [
            side.send("record", mark, priority, queue="q", priority=priority)
            for priority in (9, 3, 0, 6, 4, 7, 1, 0, 9, 5)
            for side in (world.celery, world.umbel)
        ]
        # On RabbitMQ, Celery's worker may stop for ever after the second message where it prefetches one.
        prefetch = 1 if broker == "redis" else 4
        worker = world.worker(library, "-c1", "-Psolo", "-Q", "q", f"--prefetch-multiplier={prefetch}")
        for task_id in ids:
            world.umbel.value(task_id)
        ran = [3 * (priority // 3) if broker == "redis" else -priority for _, priority in world.notes(mark)]
        assert ran == sorted(ran)
        assert worker.terminate() == 0


class TestCallbacks:
    def test_link(self, world: World, sender: Side, queue: str, mark: str):
        """The result goes to the callback, which the sender's own library runs."""
        back = f"to_{sender.library}"
        callback = sig("add", 10, queue=back, task_id=f"link-{mark}")
        assert sender.value(sender.send("add", 1, 2, queue=queue, link=[callback])) == 3
        assert sender.value(f"link-{mark}") == 13

    def test_several_links_of_which_one_is_immutable(self, sender: Side, queue: str, mark: str):
        links = [
            sig("echo", queue=queue, task_id=f"a-{mark}"),
            sig("echo", "own", queue=queue, task_id=f"b-{mark}", immutable=True),
        ]
        sender.send("echo", "result", queue=queue, link=links)
        assert (sender.value(f"a-{mark}"), sender.value(f"b-{mark}")) == ("result", "own")

    def test_a_link_of_a_link(self, sender: Side, queue: str, mark: str):
        inner = sig("add", 100, queue=queue, task_id=f"inner-{mark}")
        outer = sig("add", 10, queue=f"to_{sender.library}", link=[inner])
        sender.send("add", 1, 2, queue=queue, link=[outer])
        assert sender.value(f"inner-{mark}") == 113

    @pytest.mark.parametrize("worker", ["celery", "umbel"])
    def test_link_error(self, world: World, sender: Side, worker: str, mark: str):
        """An error callback of the old kind gets the id of what failed."""
        task_id = sender.send(
            "fail",
            "value",
            queue=f"to_{worker}",
            task_id=mark,
            link_error=[sig("after_error", queue=f"to_{OTHER[worker]}")],
        )
        assert sender.outcome(task_id)["state"] == "FAILURE"
        assert world.wait_for_notes(mark, 1) == [[OTHER[worker], "after_error"]]

    def test_link_error_of_the_new_kind(self, world: World, sender: Side, queue: str, mark: str):
        sender.send(
            "fail", "value", queue=queue, task_id=mark, link_error=[sig("on_the_spot", queue="nowhere")]
        )
        [told] = world.wait_for_notes(mark, 1)
        assert told == [OTHER[sender.library], "ValueError", "('boom', 3)", "ValueError: ('boom', 3)"]

    def test_a_link_that_comes_from_a_signature(self, sender: Side, queue: str, mark: str):
        """Made by each library's own means rather than by hand."""
        assert (
            sender.execute(
                "s = app.signature('add', args=(1, 2), queue=queue)\n"
                "s.link(app.signature('add', args=(10,), queue=queue, task_id=link_id))\n"
                "answer = s.apply_async().get(timeout=20)\n",
                queue=queue,
                link_id=f"link-{mark}",
            )
            == 3
        )
        assert sender.value(f"link-{mark}") == 13


class TestChains:
    """Celery's producers send them; each worker sends the next step."""

    CHAIN = (
        "from celery import chain\n"
        "steps = [app.signature('add', args=(n,), queue=q) for n, q in queues]\n"
        "steps[0].args = (0, queues[0][0])\n"
        "result = chain(*steps).apply_async()\n"
        "answer = result.get(timeout=20), result.parent.get(timeout=5), result.id\n"
    )

    @pytest.mark.parametrize(
        "way",
        ["umbel umbel umbel", "umbel celery umbel", "celery umbel celery", "umbel umbel celery celery umbel"],
    )
    def test_results_go_from_step_to_step(self, world: World, way: str):
        queues = [(10**number, f"to_{library}") for number, library in enumerate(way.split())]
        last, before, last_id = world.celery.execute(self.CHAIN, queues=queues)
        assert last == sum(number for number, _ in queues)
        assert before == last - queues[-1][0]
        assert world.umbel.value(last_id) == last

    def test_a_failed_step_fails_the_last(self, world: World):
        state, name = world.celery.execute(
            "from celery import chain\n"
            "s = lambda name, *args: app.signature(name, args=args, queue='to_umbel')\n"
            "result = chain(s('echo', 'value'), s('fail'), s('echo')).apply_async()\n"
            "error = result.get(timeout=20, propagate=False)\n"
            "answer = result.state, type(error).__name__\n"
        )
        assert (state, name) == ("FAILURE", "ValueError")

    def test_an_error_callback_of_a_chain(self, world: World, mark: str):
        world.celery.execute(
            "from celery import chain\n"
            "s = lambda name, *args: app.signature(name, args=args, queue='to_umbel')\n"
            "c = chain(s('echo', 'value'), s('fail'), s('echo'))\n"
            "c.apply_async(link_error=app.signature('record', args=(mark, 'called'), queue='to_celery',"
            " immutable=True))\n",
            mark=mark,
        )
        assert world.wait_for_notes(mark, 1)[0][1] == "called"

    def test_relations_in_the_chain(self, world: World):
        first, second = world.celery.execute(
            "from celery import chain\n"
            "s = lambda name, *args: app.signature(name, args=args, queue='to_umbel')\n"
            "result = chain(s('describe'), s('describe')).apply_async()\n"
            "answer = result.parent.get(timeout=20), result.get(timeout=20)\n"
        )
        assert second["args"] == [first]
        assert second["root_id"] == first["root_id"] == first["id"]
        assert second["parent_id"] == first["id"]

    def test_a_group_of_umbels_work_joins_at_celery(self, world: World):
        """A group needs nothing of the worker; Celery's client joins what Umbel's workers stored."""
        assert world.celery.execute(
            "from celery import group\n"
            "result = group(app.signature('add', args=(n, n), queue='to_umbel') for n in range(10)).apply_async()\n"
            "result.save()\n"
            "answer = result.get(timeout=20), app.GroupResult.restore(result.id).get(timeout=5)\n"
        ) == ([2 * n for n in range(10)], [2 * n for n in range(10)])
