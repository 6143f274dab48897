"""What a run is for, asked of the server: a session, the connection of `-W`, a file transfer; and
how that leaves in the login's own flight, so that all is there a round trip earlier.
"""

import asyncio

from sshoq.client.log import Failure, Log
from sshoq.client.opening import ClientConversation
from sshoq.client.session import Asked, SessionWish, ask_for_session
from sshoq.named_tuple import NamedTuple
from sshoq.protocol.messages import Session, Sftp
from sshoq.protocol.outcome import Unsupported
from sshoq.protocol.request import ResponseHead
from sshoq.transport.channel import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sshoq.client.file_run import FileWish
    from sshoq.client.remote_files import RemoteFiles
    from sshoq.config.forward_spec import Forward


class Work(NamedTuple):
    """One of these at most."""

    session: SessionWish | None = None
    stdio: "Forward | None" = None
    files: "FileWish | None" = None


class EarlyWork:
    """What was asked for ahead of the login's answer, which decides upon it, too."""

    def __init__(self, log: Log, place: str) -> None:
        """`place` names the server in complaints."""
        self.session: Asked | None = None
        self.stdio: Channel | None = None
        self.files: RemoteFiles | None = None
        self._log = log
        self._place = place
        self._may_speculate = True

    async def ask(self, client: ClientConversation, work: Work) -> None:
        """Of a server that keeps it until the login is decided."""
        if work.files is not None:
            self.files = open_files(client, work.files, self._place)
        elif work.stdio is not None:
            self.stdio = await open_stdio(client, work.stdio)
        elif work.session is not None:
            self.session = open_session(client, work.session, self._log, speculative=True)

    async def speculate(
        self,
        client: ClientConversation,
        work: Work,
        answer: "asyncio.Future[ResponseHead | None]",
    ) -> None:
        """At a server that keeps nothing early: the session shortly before its answer, once."""
        from sshoq.client.speculation import delay_of

        conversation = client.conversation
        delay = delay_of(conversation.engine.round_trip_time)
        is_go = conversation.state.settings_known and conversation.traits.is_go
        if work.session is None or delay is None or not is_go or not self._may_speculate:
            return
        await asyncio.wait({answer}, timeout=delay)
        if not answer.done():
            self._may_speculate = False
            self.session = open_session(client, work.session, self._log, speculative=True)

    async def settle(self) -> None:
        """The login has succeeded; a session that came too early for it has not."""
        if self.session is None or self._may_speculate:
            return
        from sshoq.client.speculation import was_taken

        if not await was_taken(self.session):
            self._log.debug("the session came too early, and is asked for again")
            self.session = None

    def drop(self) -> None:
        """The login was refused."""
        self.session = self.stdio = self.files = None


def open_session(
    client: ClientConversation, wish: SessionWish, log: Log, *, speculative: bool = False
) -> Asked:
    channel = client.conversation.open_channel(Session(), speculative=speculative)
    try:
        return ask_for_session(channel, wish, log)
    except Unsupported as error:
        raise Failure(str(error)) from None


async def open_stdio(client: ClientConversation, forward: "Forward") -> Channel:
    """-W's connection."""
    from sshoq.client.channel_openings import opening_for

    try:
        opening = await opening_for(client.conversation.traits, forward)
        return client.conversation.open_channel(opening, speculative=True)
    except (Unsupported, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Failure(
            f"channel 0: open failed: connect failed: {reason}", "stdio forwarding failed"
        ) from None


def open_files(client: ClientConversation, wish: "FileWish", place: str) -> "RemoteFiles":
    """The channel, and the first questions on it in the same flight."""
    from sshoq.client.remote_files import RemoteFiles

    if not client.conversation.traits.knows_fork_channels:
        raise Failure(f"{place}: this server has no file transfer")
    files = RemoteFiles(client.conversation.open_channel(Sftp(), speculative=True))
    wish.begin(files)
    return files
