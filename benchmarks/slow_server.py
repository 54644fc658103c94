"""A server that answers every request after a while: ``python -m benchmarks.slow_server SECONDS`` prints its port.

A protocol on a bare event loop, so that what is measured is who waits for it. Standard library only, and uvloop where
there is one.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
_BACKLOG = 4096


class _Answering(asyncio.Protocol):
    """One connection: one request, one answer."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._transport: asyncio.Transport
        self._heard = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._heard += data
        if self._heard.endswith(b"\r\n\r\n"):
            asyncio.get_running_loop().call_later(self._seconds, self._answer)

    def _answer(self) -> None:
        self._transport.write(_ANSWER)
        self._transport.close()


async def _serve(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Answering(seconds), "127.0.0.1", 0, backlog=_BACKLOG)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve(float(sys.argv[1])))
    else:
        uvloop.run(_serve(float(sys.argv[1])))
