"""A router's secret, and what of it reaches a network process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sshoq.server.secret import Secret

# The child looks through all that it can write to. What it looks for must not be there because it
# looks for it, so it gets it veiled and lifts the veil byte by byte.
CHILD_LOOKS = """\
import os, sys
from sshoq.server.secret import Secret
from sshoq.transport.packets import RetryTickets, new_name, stateless_reset
from tests.server.test_router import first_flight

VEIL = 0x5A

def count(veiled):
    found = 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            extent, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            start, end = (int(text, 16) for text in extent.split("-"))
            memory.seek(start)
            content = memory.read(end - start)
            at = content.find(veiled[0] ^ VEIL)
            while at >= 0:
                found += all(
                    at + n < len(content) and content[at + n] == byte ^ VEIL
                    for n, byte in enumerate(veiled)
                )
                at = content.find(veiled[0] ^ VEIL, at + 1)
    return found

resets, seals = Secret(32), Secret(16)
tickets = RetryTickets(seals.key)
first = first_flight()[0]
for _ in range(20):
    new_name(resets.key)
    stateless_reset(resets.key, b"12345678", 100)
    tickets.retry(first.payload, first.peer, 0.0)
reader, writer = os.pipe()
if os.fork() == 0:
    # the key itself, and what HMAC makes of it
    masks = [(32, 0), (32, 0x36), (32, 0x5C), (16, 0)]
    print([count(bytes(b ^ mask for b in os.read(reader, size))) for size, mask in masks])
    print(bytes(resets.key), bytes(seals.key), flush=True)
    os._exit(0)
os.write(writer, bytes(byte ^ VEIL for byte in resets.key) * 3)
os.write(writer, bytes(byte ^ VEIL for byte in seals.key))
os.wait()
print(sum(count(bytes(b ^ VEIL for b in secret.key)) for secret in (resets, seals)))
"""


def test_a_child_inherits_nothing_of_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD_LOOKS],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == ""
    # The parent finds each secret in its place, or the search would show nothing.
    assert done.stdout.splitlines() == ["[0, 0, 0, 0]", f"{bytes(32)!r} {bytes(16)!r}", "2"]


def test_each_is_another_and_does_not_change() -> None:
    first, second = Secret(32), Secret(32)
    assert bytes(first.key) == bytes(first.key) != bytes(second.key)
    assert len(set(os.urandom(32)) | set(first.key)) > 8
