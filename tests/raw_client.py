"""A client without a program around it: for bytes that no program sends, and for many at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sshoq.auth.private_keys import load_private_key
from sshoq.auth.token import build_token
from sshoq.protocol.conversation import ConversationState
from sshoq.protocol.extensions import NONE
from sshoq.protocol.request import ConnectRequest
from sshoq.transport.engine import Engine
from sshoq.transport.udp import UdpSocket
from tests.accounts import Account
from tests.pair import Party
from tests.programs import URL_PATH, Server

PATIENCE = 30.0


@asynccontextmanager
async def connected(
    server: Server, account: Account, patience: float = PATIENCE
) -> AsyncIterator[Party]:
    """Logged in with the account's key, as a client that announces nothing, as Go's."""
    loop = asyncio.get_running_loop()
    address = (server.host, server.port)
    udp = UdpSocket.connect(address, 2)
    engine = Engine.client(address, None, now=loop.time())
    async with asyncio.timeout(patience):
        party = Party(engine, udp, ConversationState(True, NONE))
        party.conversation.start()
        await party.ready
        conversation_id = engine.export(b"EXPORTER-SSH3", b"", 32)
        token = build_token(
            account.name, conversation_id, load_private_key(str(account.key)), time.time()
        )
        party.conversation.send_request(
            ConnectRequest(
                authority=f"{server.host}:{server.port}",
                path=URL_PATH,
                user=account.name,
                authorization=f"Bearer {token}",
            )
        )
        response = await party.response
        assert response is not None
        assert response.status == 200
        try:
            yield party
        finally:
            party.conversation.close()
            await party.conversation.over()
