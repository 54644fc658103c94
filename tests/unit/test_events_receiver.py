"""Hearing events: from when on, and how many are kept of what nobody has asked for yet."""

from __future__ import annotations

import pytest

from tests.unit.app_support import make_app


@pytest.mark.timeout(20)
def test_what_is_sent_after_the_queue_was_declared_is_captured_later() -> None:
    app = make_app()
    state = app.events.State(max_tasks_in_memory=3)
    with app.connection_for_write() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": state.event})
        queue = receiver.queue(connection.default_channel)
        queue.declare()
        queue.declare()
        with app.events.Dispatcher(connection) as dispatcher:
            for number in range(10):
                dispatcher.send(
                    "task-received", uuid=f"child-{number}", parent_id=f"unheard-{number}", name="t"
                )
        receiver.capture(limit=10, timeout=5)
        with pytest.raises(TimeoutError):
            receiver.capture(limit=1, timeout=0.1, wakeup=False)
    assert state.event_count == 10
    assert list(state.tasks) == ["child-7", "child-8", "child-9"]
    app.close()
