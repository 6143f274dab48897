"""What a master makes of what its clients ask for. The scenarios show the rest with real ones."""

from __future__ import annotations

import asyncio
import os
import socket
from types import SimpleNamespace
from typing import cast

import pytest

from sshoq.client.log import Log
from sshoq.client.mux_guest import Guest
from sshoq.client.mux_master import Master
from sshoq.client.mux_messages import NO_ESCAPE, NewSession
from sshoq.client.opening import ClientConversation
from sshoq.client.run_context import RunContext
from sshoq.client.session import SessionWish
from sshoq.config.resolve import resolve
from sshoq.config.surroundings import Surroundings


def wish(request: NewSession, *options: str, stdin: int = 0) -> SessionWish:
    """What the master makes of the request."""
    words = [word for option in options for word in ("-o", option)]
    settled = resolve(["-F", "none", *words, "host"], surroundings=Surroundings({}))
    context = RunContext(cast(ClientConversation, None), settled.options, Log())
    master = SimpleNamespace(context=context)

    async def main() -> SessionWish:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            guest = Guest(ours, cast(Master, master))
            guest._descriptors = [stdin, 1, 2]
            return guest._session_wish(request)

    return asyncio.run(main())


def a_request(*, wants_tty: bool = False, environment: tuple[str, ...] = ()) -> NewSession:
    return NewSession(
        0, "", wants_tty, False, False, False, NO_ESCAPE, "xterm", "command", environment
    )


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ((), 0.02),
        (("ObscureKeystrokeTiming=interval:50",), 0.05),
        (("ObscureKeystrokeTiming=no",), 0),
    ],
)
def test_keys_are_hidden_as_the_master_wishes(options: tuple[str, ...], seconds: float) -> None:
    master, terminal = os.openpty()
    try:
        made = wish(a_request(wants_tty=True), *options, stdin=terminal)
    finally:
        os.close(master)
        os.close(terminal)
    assert made.terminal is not None
    assert made.keystroke_interval == seconds


def test_only_variables_that_the_master_would_send_are_sent() -> None:
    request = a_request(environment=("LANG=C", "SECRET=x", "nonsense"))
    assert wish(request, "SendEnv=LANG", "SetEnv=MINE=m").environment == (
        ("LANG", "C"),
        ("MINE", "m"),
    )
