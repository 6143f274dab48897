"""UpdateHostKeys: once the host is known by one of its keys, its others are learnt, and those that
it no longer has are forgotten.

The server tells its keys in the flight that lets us in. Only when some are new does it take another
round trip, in which it proves to have them. What may be changed in the files, and how, is decided
in sshoq/auth/host_key_update.py. Loaded after the login, and only where there are files to change.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from sshoq.auth.host_key_proof import MAX_KEYS, are_proven
from sshoq.auth.host_key_update import Changes, HostNames, weigh_keys, write_changes
from sshoq.auth.host_policy import HostPolicy, address_is_checked
from sshoq.auth.keys import KeyFormatError, PublicKey
from sshoq.auth.known_hosts import KnownHosts, KnownHostsError, host_with_port
from sshoq.client.log import Log
from sshoq.client.prompt import Prompter, run_with_prompts
from sshoq.client.task_group import task_group
from sshoq.client.trust import is_key_accepted, policy_of
from sshoq.config.options import Options
from sshoq.config.usage import INFO, VERBOSE
from sshoq.protocol.messages import (
    ChannelRequest,
    GiveProof,
    OfferKeys,
    WantProof,
    join_strings,
    split_strings,
)
from sshoq.protocol.outcome import ProtocolError
from sshoq.transport.channel import Channel, ChannelClosed, ChannelRefused, SinkClosed

PATIENCE = 5.0
"""Seconds for each answer of the server's: a session may have to wait for it."""

LAST_WAIT = 2.0
"""Seconds for what is under way when all else is over: a short command is, ahead of the proofs."""

QUESTION = "Accept updated hostkeys? (yes/no): "
MAX_ANSWERS = 3

_Answer = TypeVar("_Answer", bound=ChannelRequest)


class _Pointless(Exception):
    """Nothing is to be changed; why not is for the log alone."""


class HostKeyUpdate:
    """One for a connection, on the channel that asks for the keys. `run` is the whole of it."""

    def __init__(
        self,
        channel: Channel,
        conversation_id: bytes,
        shown: PublicKey,
        address: str | None,
        options: Options,
        prompter: Prompter,
        log: Log,
    ) -> None:
        """`shown`: the key that the host is known by; `address`: its own, where that is known."""
        self._channel = channel
        self._conversation_id = conversation_id
        self._shown = shown
        self._options = options
        self._files = [file for file in options.user_known_hosts_files if file != "none"]
        self._names = _names_of(policy_of(options, address))
        self._prompter = prompter
        self._log = log
        self.must_ask = options.update_host_keys == "ask"
        self.is_promising = False
        """There are changes, and they are about to be made."""

    async def run(self) -> None:
        """Whatever server or files have to say does not concern the session."""
        try:
            await self._update()
        except _Pointless as reason:
            self._log.debug(f"UpdateHostKeys: {reason}")
        except (ChannelRefused, ChannelClosed, SinkClosed, KnownHostsError) as error:
            self._log.debug(f"UpdateHostKeys: {error}")
        except ProtocolError as error:
            self._log.error(f"UpdateHostKeys: {error.reason}")
        finally:
            self.is_promising = False
            self._channel.finish()

    async def _update(self) -> None:
        offered = self._usable(await self._receive_keys())
        changes = weigh_keys(KnownHosts.from_files(self._files), self._names, offered)
        if not changes.are_wanted:
            raise _Pointless("no new or deprecated keys from server")
        if changes.obstacle:
            raise _Pointless(f"{changes.obstacle}, skipping UserKnownHostsFile update")
        self.is_promising = True
        if changes.new:
            await self._demand_proof(changes)
        self._announce(changes)
        if self.must_ask and not await run_with_prompts(self._prompter, self._is_confirmed):
            return
        hashed = self._options.hash_known_hosts
        for complaint in write_changes(self._files, self._names, changes, hashed=hashed):
            self._log.error(complaint)

    # ----- what the server says

    async def _receive(self, kind: type[_Answer]) -> _Answer:
        try:
            async with asyncio.timeout(PATIENCE):
                requested = await self._channel.next_request()
        except TimeoutError:
            raise _Pointless("the server does not answer") from None
        if requested is None:
            await self._channel.opened()  # it may have refused
            raise _Pointless("the server says no more")
        if not isinstance(requested.request, kind):
            raise ProtocolError(f"{requested.request.name_on_wire} out of place")
        return requested.request

    async def _receive_keys(self) -> list[bytes]:
        blobs = split_strings((await self._receive(OfferKeys)).keys)
        if len(blobs) > MAX_KEYS or len(set(blobs)) != len(blobs):
            raise ProtocolError("received too many or duplicated host keys")
        return blobs

    def _usable(self, blobs: list[bytes]) -> list[PublicKey]:
        """Those that we would accept if the host showed them."""
        keys = []
        for blob in blobs:
            try:
                key = PublicKey(blob)
            except KeyFormatError as error:
                self._log.debug(f"UpdateHostKeys: {error}")
                continue
            if key.kind.certified or not is_key_accepted(key, self._options):
                self._log.debug3(f"{key.algorithm} key not permitted")
                continue
            keys.append(key)
        if self._shown not in keys:
            raise _Pointless("the key that the host is known by is not among its keys")
        return keys

    async def _demand_proof(self, changes: Changes) -> None:
        self._log.debug(f"asking for proof of {len(changes.new)} host keys")
        self._channel.request(WantProof(join_strings(key.blob for key in changes.new)))
        signatures = split_strings((await self._receive(GiveProof)).signatures)
        if not are_proven(changes.new, signatures, self._conversation_id):
            raise ProtocolError("server gave bad signature for a host key")

    # ----- what the user is told

    def _announce(self, changes: Changes) -> None:
        level = INFO if self.must_ask else VERBOSE
        for text, keys in (
            ("Learned new hostkey", changes.new),
            ("Deprecating obsolete hostkey", changes.old),
        ):
            for key in keys:
                fingerprint = key.fingerprint(self._options.fingerprint_hash.lower())
                self._log.message(level, f"{text}: {key.kind.name} {fingerprint}")

    def _is_confirmed(self) -> bool:
        for _ in range(MAX_ANSWERS):
            answer = self._prompter.answer(QUESTION)
            if answer is None or answer.lower() == "no":
                return False
            if answer.lower() == "yes":
                return True
            self._log.info('Please enter "yes" or "no"')
        return False


def _names_of(policy: HostPolicy) -> HostNames:
    address = policy.address if address_is_checked(policy) else None
    known = None if address is None else host_with_port(address, policy.port)
    return HostNames(policy.known_name, known)


@asynccontextmanager
async def updating(update: HostKeyUpdate, *, ahead: bool) -> AsyncIterator[None]:
    """Beside the block, and what has begun is brought to its end; or `ahead` of it, as is needed if
    the user is to be asked, whose terminal is a session's then."""
    if ahead or update.must_ask:
        await update.run()
        yield
        return
    async with task_group() as group:
        task = group.create_task(update.run())
        try:
            yield
            if update.is_promising:
                await asyncio.wait({task}, timeout=LAST_WAIT)
        finally:
            task.cancel()
