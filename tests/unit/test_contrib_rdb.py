"""The debugger over the network: a program waits, someone connects, looks and lets it go on."""

from __future__ import annotations

import re
import socket
import subprocess
import sys

PROGRAM = """
from umbel.contrib.rdb import set_trace

def work():
    secret = 40 + 2
    set_trace()
    return secret

print("result", work(), flush=True)
"""


def test_who_connects_sees_the_frame_and_lets_it_go_on():
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert program.stdout is not None
        port = int(re.search(r"telnet 127.0.0.1 (\d+)", program.stdout.readline()).group(1))
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            session = client.makefile("rw")
            session.write("p secret\nc\n")
            session.flush()
            heard = session.read()
        assert "42" in heard
        rest, _ = program.communicate(timeout=20)
        assert "result 42" in rest
    finally:
        program.kill()
        program.wait()
