"""Process: network process [service user, sandboxed]. All keys of the host, for a client that wants
to learn them.

The client knows the host by one of them already, and asks to be shown that the host has the others.
The monitor does that, for this connection and once.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from sshoq.protocol.messages import GiveProof, OfferKeys, WantProof, join_strings, split_strings
from sshoq.protocol.outcome import ProtocolError
from sshoq.transport.channel import Channel, SinkClosed

INFO = 1
"""A level of `Prover.log`."""


class Prover(Protocol):
    """What is needed of the login."""

    @property
    def host_keys(self) -> tuple[bytes, ...]: ...

    async def prove_host_keys(self, keys: Sequence[bytes]) -> tuple[bytes, ...]: ...

    def log(self, level: int, text: str) -> None: ...


class HostKeysHost:
    """One channel: the keys, and perhaps the proofs."""

    def __init__(self, channel: Channel, login: Prover) -> None:
        self._channel = channel
        self._login = login
        channel.confirm()

    async def run(self) -> None:
        try:
            with suppress(SinkClosed):  # the client knows enough
                await self._tell()
        except ProtocolError as error:
            self._login.log(INFO, f"{self._channel}: {error.reason}")
            self._channel.close(error.code)

    async def _tell(self) -> None:
        self._channel.request(OfferKeys(join_strings(self._login.host_keys)))
        asked = await self._channel.next_request()
        if asked is not None:
            wanted = self._wanted(asked.request)
            proofs = await self._login.prove_host_keys(wanted)
            self._channel.request(GiveProof(join_strings(proofs)))
        self._channel.finish()

    def _wanted(self, request: object) -> list[bytes]:
        """The monitor ends the connection for what is refused here."""
        if not isinstance(request, WantProof):
            raise ProtocolError("a request that does not belong here")
        keys = split_strings(request.keys)
        if not set(keys) <= set(self._login.host_keys) or len(set(keys)) != len(keys):
            raise ProtocolError("proof wanted of other keys than the host's, or twice")
        return keys

    def close(self) -> None:
        self._channel.close()
