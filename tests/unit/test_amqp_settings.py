"""What broker_transport, broker_heartbeat_checkrate and broker_channel_error_retry do."""

import asyncio

import pytest

from umbel import Umbel
from umbel.brokers.amqp import AmqpBroker
from umbel.brokers.base import FetchPlan
from umbel.brokers.options import BrokerOptions
from umbel.errors import BrokerConnectionError, BrokerError, ImproperlyConfigured
from umbel.stores.amqp.address import parse_address
from umbel.stores.amqp.dialogue import Dialogue
from umbel.worker.link import BrokerLink, ConnectionPolicy, GaveUp

PLAN = FetchPlan(("q",))


@pytest.mark.parametrize(
    ("url", "transport", "shown"),
    [
        ("amqp://me:secret@host:1/vhost", "amqps", "amqps://me:**@host:1/vhost"),
        ("redis://host", "pyamqp", "amqp://guest:**@host:5672//"),
        ("host/vhost", "amqp", "amqp://guest:**@host:5672/vhost"),
        (None, "amqp", "amqp://guest:**@localhost:5672//"),
        ("amqp://host", None, "amqp://guest:**@host:5672//"),
        (["redis://a", "redis://b"], "amqp", "amqp://guest:**@a:5672//"),
    ],
)
def test_broker_transport_takes_the_place_of_the_urls_scheme(url, transport, shown):
    app = Umbel("transports", broker=url, broker_transport=transport)
    assert app.broker.display_url == shown


def test_heartbeats_are_sent_as_often_as_set():
    address, _ = parse_address("amqp://", {}, heartbeat=60, heartbeat_rate=6)
    dialogue = Dialogue(address, lambda: None)
    dialogue._connection.heartbeat = 60  # what the server has agreed to
    assert (dialogue.heartbeat, dialogue.beats_every) == (60, 10)


def test_heartbeats_that_are_too_rare_to_be_noticed_are_refused():
    with pytest.raises(ImproperlyConfigured, match="broker_heartbeat_checkrate: expected 2 or more, got 1"):
        AmqpBroker("amqp://", BrokerOptions(heartbeat_rate=1))


class Refusing:
    """A consumer whose queue is refused so many times, when it connects and when it fetches."""

    def __init__(self, opens: int, fetches: int) -> None:
        self.opens, self.fetches = opens, fetches

    async def open(self) -> None:
        self.opens -= 1
        if self.opens >= 0:
            raise BrokerError("queue 'q' exists with another type")

    async def fetch(self, *_: object) -> list[str]:
        self.fetches -= 1
        if self.fetches >= 0:
            raise BrokerError("queue 'q' exists with another type")
        return ["a message"]

    async def reconcile(self, _: object) -> int:
        return 0


def link_to(consumer: Refusing, *, refused_too: bool, later: bool = True) -> BrokerLink:
    policy = ConnectionPolicy(on_startup=True, later=later, max_retries=5, refused_too=refused_too)
    policy.delay = lambda attempt: 0.0
    policy.patience = 0.0
    return BrokerLink(consumer, display_url="amqp://", policy=policy, held_tags=set)  # type: ignore[arg-type]


async def fetch(link: BrokerLink) -> list[str]:
    await link.open()
    while not (taken := await link.fetch(PLAN, 1, 0.0)):
        pass
    return taken


def test_what_rabbitmq_refuses_ends_the_worker():
    for consumer in (Refusing(1, 0), Refusing(0, 1)):
        with pytest.raises(BrokerError, match="another type"):
            asyncio.run(fetch(link_to(consumer, refused_too=False)))


def test_what_rabbitmq_refuses_is_tried_again_if_asked_for():
    assert asyncio.run(fetch(link_to(Refusing(2, 2), refused_too=True))) == ["a message"]


def test_tries_come_close_together_and_go_on_for_as_long_as_celerys():
    """A worker is to work within ten seconds of the broker's return, and is not to leave sooner than Celery's."""
    policy = ConnectionPolicy(on_startup=True, later=True, max_retries=100)
    assert max(policy.delay(attempt) for attempt in range(1, 200)) <= 5.0
    assert policy.patience == 240 + 85 * 32.0
    endless = ConnectionPolicy(on_startup=True, later=True, max_retries=None)
    assert endless.max_retries is None


def test_what_rabbitmq_goes_on_to_refuse_is_given_up_as_a_lost_connection_is():
    with pytest.raises(GaveUp, match="after 5 attempts: queue 'q' exists"):
        asyncio.run(fetch(link_to(Refusing(9, 0), refused_too=True)))
    assert issubclass(GaveUp, BrokerConnectionError)
