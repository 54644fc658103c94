"""Connections that end at the worst moment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvloop

from tests.support.servers import RedisServer
from umbel.errors import BrokerConnectionError
from umbel.stores.redis.address import parse_address
from umbel.stores.redis.commands import pack_command
from umbel.stores.redis.link import open_link

pytestmark = pytest.mark.redis


def test_a_connection_that_closes_before_what_was_asked_is_written(redis_server: RedisServer) -> None:
    """The worker ends when a callback of its loop fails: what failed may be something that has to be done."""
    failures: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        address, _ = parse_address(redis_server.url(), {}, None, None)
        link = await open_link(address)
        assert link._transport is not None
        link._transport.abort()  # as when the server is gone: the link is told of it in the next turn of the loop
        reply = link.send(pack_command((b"PING",)))
        with pytest.raises(BrokerConnectionError):
            await asyncio.wait_for(reply, 5)

    uvloop.run(main())
    assert failures == []
