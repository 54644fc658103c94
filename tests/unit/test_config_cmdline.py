"""Settings as the last words of a command line."""

from __future__ import annotations

import pytest

from umbel.config import parse_cmdline_settings
from umbel.errors import ImproperlyConfigured


@pytest.mark.parametrize(
    ("word", "name", "value"),
    [
        ("worker.prefetch_multiplier=1", "worker_prefetch_multiplier", 1),
        ("worker_prefetch_multiplier=1", "worker_prefetch_multiplier", 1),
        ("Worker.Prefetch_Multiplier=1", "worker_prefetch_multiplier", 1),
        (".prefetch_multiplier=1", "worker_prefetch_multiplier", 1),
        ("_prefetch_multiplier=1", "worker_prefetch_multiplier", 1),
        (".timezone=UTC", "timezone", "UTC"),
        ("timezone=Europe/Bucharest", "timezone", "Europe/Bucharest"),
        ("enable_utc=no", "enable_utc", False),
        ("CELERYD_CONCURRENCY=4", "worker_concurrency", 4),
        ("worker.concurrency=auto", "worker_concurrency", "auto"),
        ("broker.url=redis://h/0?a=b", "broker_url", "redis://h/0?a=b"),
        ('broker.transport_options=(dict){"sep": ":"}', "broker_transport_options", {"sep": ":"}),
        ('broker.transport_options={"sep": ":"}', "broker_transport_options", {"sep": ":"}),
        ("imports=a,b", "imports", ("a", "b")),
        ("redbeat_lock_timeout=(int)30", "redbeat_lock_timeout", 30),
        ("foo_bar=(json)[1, 2]", "foo_bar", [1, 2]),
        ("foo_bar=(bool)on", "foo_bar", True),
    ],
)
def test_an_assignment(word: str, name: str, value: object) -> None:
    assert parse_cmdline_settings([word], "worker") == {name: value}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "worker.concurency=4",
            "worker_concurency: there is no such setting; did you mean worker_concurrency",
        ),
        ("worker.wisdom=4", "worker_wisdom: there is no such setting"),
        ("redbeat_lock_timeout=30", "redbeat_lock_timeout: there is no such setting"),
        ("worker.concurrency=many", "worker_concurrency: expected an int or \"auto\", got 'many'"),
        ("worker.concurrency=(int)x", "worker_concurrency: expected int, got 'x'"),
        ("worker.concurrency", "expected name=value, got 'worker.concurrency'"),
        ("=4", "expected name=value"),
    ],
)
def test_a_mistake_is_named(word: str, message: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        parse_cmdline_settings([word], "worker")

    assert str(caught.value).startswith(message)
