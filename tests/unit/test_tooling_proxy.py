"""The network that fails when a test says so."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.proxy import TcpProxy
from tests.support.waiting import wait_until


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
        except OSError:
            pass  # cut off, as these tests do


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@pytest.fixture
def proxy() -> Iterator[TcpProxy]:
    with _Server(("127.0.0.1", 0), _Echo) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with TcpProxy(server.server_address[1]) as proxy:
            yield proxy
        server.shutdown()


def connect(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := connection.recv(count - len(data))):
        data += more
    return data


def what_is_left(connection: socket.socket) -> bytes:
    data = b""
    try:
        while more := connection.recv(100):
            data += more
    except ConnectionError:
        pass  # reset, which is an end as well
    return data


def test_it_passes_what_it_gets(proxy: TcpProxy) -> None:
    with connect(proxy) as connection:
        connection.sendall(b"x" * 1_000_000)
        assert read(connection, 1_000_000) == b"x" * 1_000_000
        assert proxy.connections == 1
    wait_until(lambda: proxy.connections == 0, what="the end of the connection")


def test_frozen_it_holds_back_and_loses_nothing(proxy: TcpProxy) -> None:
    with connect(proxy) as connection:
        connection.sendall(b"a")
        assert read(connection, 1) == b"a"
        proxy.freeze()
        connection.sendall(b"b")
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(5)
        proxy.thaw()
        assert read(connection, 1) == b"b"


def test_it_cuts_in_the_middle(proxy: TcpProxy) -> None:
    with connect(proxy) as connection:
        connection.sendall(b"whole")
        assert read(connection, 5) == b"whole"
        proxy.cut_after(3, towards="client")
        connection.sendall(b"part")
        # Whether the part arrives before the reset takes it away is the kernel's affair.
        assert b"part".startswith(what_is_left(connection))
        proxy.wait_cut()
        assert proxy.connections == 0


def test_it_is_slow_on_request(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        proxy.slow_down(latency=0.05, rate=10_000)
        began = time.monotonic()
        client.sendall(b"x" * 1000)
        assert read(client, 1000) == b"x" * 1000
        assert time.monotonic() - began >= 0.3  # there and back, a tenth of a second each for its size
        proxy.slow_down()
        client.sendall(b"y")
        assert read(client, 1) == b"y"


def test_it_refuses_and_accepts_again(proxy: TcpProxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.accept()
    with connect(proxy) as connection:
        connection.sendall(b"a")
        assert read(connection, 1) == b"a"
    assert proxy.accepted == 1
