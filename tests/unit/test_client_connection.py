"""`Connection` by kombu's names: queues of a program's own on the broker of its tasks."""

from __future__ import annotations

import pytest

from umbel import Exchange, Queue, Umbel
from umbel.client.connection import Connection, SimpleQueue
from umbel.errors import ContentDisallowed, OperationalError


@pytest.fixture
def app(tmp_path):
    with Umbel(
        "connections", broker=f"sqlite:///{tmp_path}/b.db", backend="disabled://", set_as_current=False
    ) as app:
        yield app


def test_what_is_put_is_got_and_acknowledged(app):
    with app.connection() as connection, connection.SimpleQueue("mine") as queue:
        queue.put({"a": 1}, headers={"h": "x"})
        queue.put([2])
        assert queue.qsize() == 2
        first = queue.get(timeout=5)
        assert (first.payload, first.headers["h"]) == ({"a": 1}, "x")
        first.ack()
        second = queue.get(timeout=5)
        assert second.payload == [2]
        second.requeue()
        assert queue.get(timeout=5).delivery_info["redelivered"]


def test_an_empty_queue_says_so(app):
    with app.connection() as connection, connection.SimpleQueue("mine") as queue:
        with pytest.raises(SimpleQueue.Empty):
            queue.get(timeout=0.01)
        with pytest.raises(SimpleQueue.Empty):
            queue.get_nowait()


def test_what_was_not_acknowledged_comes_back(app):
    with app.connection() as connection:
        queue = connection.SimpleQueue("mine")
        queue.put("text")
        assert queue.get(timeout=5).payload == "text"
    with app.connection() as connection:
        message = connection.SimpleQueue("mine").get(timeout=5)
        assert message.payload == "text"
        message.ack()


def test_a_consumer_hands_messages_to_its_callbacks(app):
    exchange = Exchange("media", type="topic")
    queue = Queue("video", exchange, routing_key="video.#")
    seen = []

    def take(body, message):
        seen.append((body, message.delivery.queue))
        message.ack()

    with app.connection() as connection:
        producer = connection.Producer(serializer="json")
        producer.publish({"n": 1}, exchange=exchange, routing_key="video.hd", declare=[queue])
        with connection.Consumer([queue], callbacks=[take]):
            connection.drain_events(timeout=5)
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.01)
    assert seen == [({"n": 1}, "video")]


def test_pickle_is_refused_unless_it_is_accepted(app):
    with app.connection() as connection:
        queue = connection.SimpleQueue("mine")
        queue.put({1, 2}, serializer="pickle")
        message = queue.get(timeout=5)
        with pytest.raises(ContentDisallowed):
            _ = message.payload
        message.reject()


def test_no_more_is_lent_than_the_limit(app):
    app.conf.broker_pool_limit = 1
    with app.producer_pool.acquire(block=True) as producer:
        with pytest.raises(OperationalError):
            app.producer_pool.acquire()
        producer.publish({"a": 1}, routing_key="mine", exchange="")
    app.producer_pool.acquire().release()
    with app.connection() as connection:
        assert connection.SimpleQueue("mine").qsize() == 1


def test_a_connection_shows_no_password():
    assert "secret" not in Connection("redis://user:secret@localhost:1/0").as_uri()
