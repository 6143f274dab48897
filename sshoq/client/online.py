"""The run of the client once the first flight is in the air: handshake, host key, login, session,
the end.

Loaded while that flight travels. Reads top to bottom, as main.py does before it.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from sshoq.client import wishes
from sshoq.client.addresses import HostAddress
from sshoq.client.authentication import Authentication, Reply
from sshoq.client.background import Background, Word
from sshoq.client.early import EarlyWork, Work, open_files, open_session, open_stdio
from sshoq.client.first_flight import Flight, LinkWish
from sshoq.client.identities import Candidate, gather_keys, is_understood, login_wishes
from sshoq.client.log import Failure, Log, lead_nowhere
from sshoq.client.login_request import KEY_PREFIX, LoginRequests, NoSuchPath, may_let_in
from sshoq.client.opening import ClientConversation, Foreign, reach
from sshoq.client.prompt import Prompter, run_with_prompts
from sshoq.client.session import (
    Ending,
    SessionRun,
    SessionWish,
    TerminalWish,
    wait_without_session,
)
from sshoq.client.signals import FATAL, catching, die_of
from sshoq.client.task_group import unless_callbacks_fail
from sshoq.client.trust import check_host, guarded
from sshoq.config.options import Options
from sshoq.config.resolve import Invocation
from sshoq.config.usage import DEBUG1, ERROR
from sshoq.named_tuple import NamedTuple
from sshoq.protocol.extensions import Extension
from sshoq.protocol.messages import HostKeys
from sshoq.transport.channel import Channel, ChannelClosed, ChannelRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sshoq.auth.keys import PublicKey
    from sshoq.client.display import ForwardedDisplay
    from sshoq.client.file_run import FileWish
    from sshoq.client.forwards import Forwards
    from sshoq.client.mux_master import Master

FAILED = 255

PROBE_SECONDS = 3.0
"""For the answer of what may be no SSHOQ server."""


class Departure(NamedTuple):
    """What has happened before the event loop runs."""

    invocation: Invocation
    log: Log
    prompter: Prompter
    targets: list[HostAddress]
    link: LinkWish
    first: Flight | OSError
    patience: float | None
    background: Background | None
    on_reached: Callable[[], None]
    """Called when an SSHOQ server has answered."""
    may_fall_back: bool = False
    """The host may be none, and is then to be left to ssh."""
    hops: Sequence[Invocation] = ()
    """Jump hosts; `targets`, `link` and `first` are then the nearest one's."""
    link_wish: Callable[[Invocation], LinkWish] | None = None


async def go_online(departure: Departure) -> int:
    """The exit status. Unreachable when no address answered; Failure for everything else."""
    return await unless_callbacks_fail(_Run(departure).run())


class _Run:
    def __init__(self, departure: Departure) -> None:
        self._departure = departure
        self._invocation = departure.invocation
        self._options: Options = departure.invocation.options
        self._log = departure.log
        self._prompter = departure.prompter
        self._agent = wishes.forwarded_agent(self._options, os.environ)
        self._display = self._find_display()
        self._files_wish = _file_wish(departure.invocation, self._log)
        self._session = session_wish(departure.invocation, self._agent)
        self._requests = LoginRequests(self._options, self._log)
        self._early = EarlyWork(self._log, self._requests.place)
        self._shown_key: PublicKey | None = None
        self._host_keys: Channel | None = None
        self._nearest: ClientConversation | None = None
        self._was_reached = False
        background = departure.background
        self._will_be_master = background is not None and background.is_master

    def _find_display(self) -> "ForwardedDisplay | None":
        name = wishes.forwarded_display(self._options, os.environ)
        if name is None:
            if self._options.forward_x11:
                self._log.debug("X11 forwarding requested but DISPLAY not set")
            return None
        from sshoq.client.display import ForwardedDisplay

        return ForwardedDisplay(name, self._options, self._log)

    async def run(self) -> int:
        if self._display is not None and self._wants_display:
            self._display.begin()
        with catching(FATAL, self._die):
            async with self._way() as client:
                return await self._converse_if_ours(client)

    async def _converse_if_ours(self, client: ClientConversation) -> int:
        """Foreign where the host may be left to ssh, and is no SSHOQ server for us."""
        if not self._departure.may_fall_back:
            return await self._converse(client)
        await self._make_sure(client)
        try:
            return await self._converse(client)
        except NoSuchPath as failure:
            raise Foreign(failure.lines[0]) from None

    async def _make_sure(self, client: ClientConversation) -> None:
        """That it is no web server, whose key nobody has to be asked about. Ours say who they are
        with the handshake, and of others it takes one answer."""
        if not (await client.settled_traits()).is_go:
            return
        response = None
        with suppress(Failure, TimeoutError):
            async with asyncio.timeout(PROBE_SECONDS):
                response = await client.answer_to(self._requests.build_probe())
        if response is None or response.version is None:
            raise Foreign("what answers there is no SSHOQ server")

    def _die(self, number: int) -> None:
        """Of a signal, but not before the server knows."""
        if self._nearest is not None:
            self._nearest.conversation.close()
        die_of(number)

    @asynccontextmanager
    async def _way(self) -> AsyncIterator[ClientConversation]:
        """The conversation with the destination, which ends with the block."""
        departure = self._departure
        if departure.hops and departure.link_wish is not None:
            from sshoq.client.jump import way_through

            way = way_through(
                departure.hops,
                departure.invocation,
                self._reach_nearest,
                departure.link_wish,
                self._log_in_to_hop,
                self._log,
                departure.patience,
            )
            async with way as client:
                yield client
            return
        client = await self._reach_nearest()
        try:
            yield client
        finally:
            await client.close()

    async def _reach_nearest(self) -> ClientConversation:
        departure = self._departure
        nearest = departure.hops[0] if departure.hops else departure.invocation
        self._nearest = await reach(
            departure.targets,
            departure.link,
            nearest.options.hostname,
            self._log,
            first=departure.first,
            patience=departure.patience,
            attempts=nearest.options.connection_attempts,
        )
        return self._nearest

    async def _log_in_to_hop(self, hop: Invocation, client: ClientConversation) -> None:
        options = hop.options
        departure = self._departure._replace(invocation=hop, hops=(), on_reached=lambda: None)
        run = _Run(departure)
        await run._log_in(client)
        async with run._updating_host_keys(client, ahead=True):
            pass  # our way leads on
        client.watch_server(options.server_alive_interval, options.server_alive_count_max)
        if options.channel_timeouts:
            from sshoq.forwarding.channel_timeouts import ChannelTimeouts

            ChannelTimeouts(client.conversation, options.channel_timeouts, self._log.debug).watch()

    async def _converse(self, client: ClientConversation) -> int:
        await self._log_in(client)
        async with self._updating_host_keys(client):
            try:
                return await self._use(client)
            except ChannelRefused as refusal:
                from sshoq.client.channel_openings import describe_refusal

                raise Failure(f"channel 0: open failed: {describe_refusal(refusal)}") from None
            except ChannelClosed as closed:
                line = client.gone.result() if client.gone.done() else str(closed)
                raise Failure(line, level=ERROR) from None

    async def _use(self, client: ClientConversation) -> int:
        options = self._options  # perhaps without what an untrusted host must not get
        client.watch_server(options.server_alive_interval, options.server_alive_count_max)
        if options.channel_timeouts:
            from sshoq.forwarding.channel_timeouts import ChannelTimeouts

            ChannelTimeouts(client.conversation, options.channel_timeouts, self._log.debug).watch()
        if self._files_wish is not None:  # and nothing else, as for scp and sftp
            return self._report(client, await self._run_files(client, self._files_wish))
        is_needed = wishes.forwards_anything(options, self._agent, self._display)
        is_needed = is_needed or wishes.is_master(options)
        if not is_needed and not self._has_command_line:
            return await self._do_what_is_asked(client, None, None)
        from sshoq.client.forwards import forwarding
        from sshoq.client.run_context import RunContext

        context = RunContext(client, options, self._log, self._agent, self._display)
        async with forwarding(context) as forwards:
            await forwards.local.listen()
            await forwards.remote.ask()
            if not wishes.is_master(options):
                return await self._do_what_is_asked(client, forwards, None)
            from sshoq.client.mux_master import mastering

            async with mastering(context, forwards) as master:
                return await self._do_what_is_asked(client, forwards, master)

    async def _do_what_is_asked(
        self, client: ClientConversation, forwards: "Forwards | None", master: "Master | None"
    ) -> int:
        """With all forwardings in place, and a master's socket."""
        options = self._options
        if options.local_command and options.permit_local_command:
            await run_with_prompts(self._prompter, self._run_local_command)
        if not self._leave_foreground(master):
            return FAILED
        work = self._work(client, forwards, master)
        ending = await (work if master is None else master.run(work))
        return self._report(client, ending)

    def _leave_foreground(self, master: "Master | None") -> bool:
        """-f and ControlPersist. False: whoever waited for that is gone."""
        background = self._departure.background
        if background is None:
            return True
        if background.is_master and master is not None:
            return self._leave_to_serve(background)
        if background.is_master and not self._options.fork_after_authentication:
            background.stay()
            return True
        if self._session is None and self._options.stdio_forward is None:
            self._let_go_of_streams()
        return background.detach()

    def _leave_to_serve(self, background: Background) -> bool:
        is_wanted = self._session is not None or self._options.stdio_forward is not None
        self._session = None  # it is the parent's, who will be our client
        self._log.debug("forking to background")
        self._let_go_of_streams()
        if not background.detach(Word.SHARE if is_wanted else Word.LEAVE):
            return False
        from sshoq.process_title import set_title

        set_title(f"ssh: {self._options.control_path} [mux]")  # what scripts look for in ps
        return True

    def _let_go_of_streams(self) -> None:
        """Whoever reads what we print waits for the end of it, and must not wait for ours."""
        lead_nowhere(0, 1, *(() if self._log.level >= DEBUG1 else (2,)))

    async def _work(
        self, client: ClientConversation, forwards: "Forwards | None", master: "Master | None"
    ) -> Ending:
        """What we are here for ourselves."""
        is_served = master is not None and self._will_be_master
        if self._options.stdio_forward is not None and not is_served:
            return await self._run_stdio(client)
        if self._session is None:
            return await wait_without_session(client.gone, self._log)
        ending = await self._run_session(client, self._session, forwards)
        if forwards is not None and ending.signal_number is None:
            ending = await self._outlast(client, master or forwards, ending)
        return ending

    async def _outlast(
        self, client: ClientConversation, others: "Forwards | Master", ending: Ending
    ) -> Ending:
        """The session is over; what came through the forwardings goes on, as with ssh, and so do
        the clients that share our connection. Whoever reads our output learns that there will be
        no more."""
        if self._options.fork_after_authentication:
            self._let_go_of_streams()
        else:
            lead_nowhere(0, 1)
        async with asyncio.TaskGroup() as group:
            drained = group.create_task(others.drained())
            waiting = group.create_task(wait_without_session(client.gone))
            either: set[asyncio.Task[Any]] = {drained, waiting}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            for task in either:
                task.cancel()
        return ending

    # ----- login

    async def _log_in(self, client: ClientConversation) -> None:
        options = self._options
        place = f"{options.hostname}:{options.quic_port}"
        self._log.debug(f"Authenticating to {place} as '{options.user}'")
        login = login_wishes(options)
        candidates = gather_keys(login, self._log) if "publickey" in login.methods else []
        verdict = await check_host(
            client.certificates, options, client.target.known_ip, self._prompter, self._log
        )
        if verdict.restricted:
            self._guard()
            login = login_wishes(self._options)
        if verdict.may_update and wishes.updates_host_keys(self._options):
            self._shown_key = verdict.key
        self._warn_of_weak_exchange(client)
        await self._take_display_along()
        candidates = await self._leave_out_unknown(client, candidates)

        async def send(authorization: str | None) -> Reply:
            if authorization is None and (await client.settled_traits()).is_go:
                return Reply(False)  # it would not tell what it offers
            return await self._try(client, authorization)

        authentication = Authentication(
            login,
            candidates,
            self._prompter,
            self._log,
            names_keys=client.conversation.traits.supports(Extension.NAMED_KEY),
        )
        method = await authentication.run(client.conversation_id, send)
        client.note_login()
        place = f"[{client.target.ip}]:{client.target.port}"
        self._log.verbose(f'Authenticated to {options.hostname} ({place}) using "{method}".')

    async def _leave_out_unknown(
        self, client: ClientConversation, candidates: list[Candidate]
    ) -> list[Candidate]:
        """The kinds of keys that the server has no idea of: Go servers know plain ones only."""
        if not any(candidate.needs for candidate in candidates):
            return candidates
        extensions = (await client.settled_traits()).extensions
        return [one for one in candidates if is_understood(one, extensions, self._log)]

    async def _take_display_along(self) -> None:
        """With what opens it, which the session's request leaves with, perhaps with the login."""
        if self._display is None or self._session is None or not self._wants_display:
            return
        if await self._display.prepare():
            self._session = self._session._replace(display=self._display)

    @property
    def _wants_display(self) -> bool:
        """For a session of our own, and not our clients'."""
        return self._session is not None and not self._will_be_master

    def _guard(self) -> None:
        """Nothing for a host that may not be the right one to abuse."""
        self._options = guarded(self._options)
        self._agent = None
        self._display = None
        self._session = session_wish(self._departure.invocation, None)

    async def _try(self, client: ClientConversation, authorization: str | None) -> Reply:
        """One CONNECT, with the session in the same flight where the server keeps it so long."""
        answer = client.answer_to(self._requests.build(authorization))
        traits = client.conversation.traits
        if may_let_in(authorization) and traits.supports(Extension.EARLY):
            with suppress(ChannelRefused, ChannelClosed):  # why not is told by the answer
                await self._early.ask(client, self._work_ahead)
            self._ask_for_host_keys(client)
        elif authorization is not None and authorization.startswith(KEY_PREFIX):
            await self._early.speculate(client, self._work_ahead, answer)
        reply = self._requests.judge(await answer, client.conversation.traits)
        self._note_reached()
        if reply is not None and reply.accepted:
            await self._early.settle()
            return reply
        self._early.drop()  # refused with the login
        self._host_keys = None
        return await self._try(client, authorization) if reply is None else reply

    def _note_reached(self) -> None:
        """Once: the path is one of an SSHOQ server's."""
        if not self._was_reached:
            self._was_reached = True
            self._departure.on_reached()

    @property
    def _work_ahead(self) -> Work:
        """What may leave with the login. Nothing if our own parent will come for it, and no session
        with remote forwardings, which must stand before it starts."""
        if self._files_wish is not None:
            return Work(files=self._files_wish)
        if self._will_be_master:
            return Work()
        if self._options.stdio_forward is not None:
            return Work(stdio=self._options.stdio_forward)
        return Work(session=None if self._options.remote_forwards else self._session)

    def _ask_for_host_keys(self, client: ClientConversation) -> None:
        """UpdateHostKeys: what comes of it is seen to after the login."""
        wanted = self._shown_key is not None and self._host_keys is None
        if wanted and client.conversation.traits.supports(Extension.HOST_KEYS):
            with suppress(ChannelRefused, ChannelClosed):
                self._host_keys = client.conversation.open_channel(HostKeys(), speculative=True)
            asyncio.get_running_loop().call_soon(_load_host_key_update)

    @asynccontextmanager
    async def _updating_host_keys(
        self, client: ClientConversation, *, ahead: bool = False
    ) -> AsyncIterator[None]:
        self._ask_for_host_keys(client)
        if self._host_keys is None or self._shown_key is None:
            yield
            return
        from sshoq.client.host_key_update import HostKeyUpdate, updating

        update = HostKeyUpdate(
            self._host_keys,
            client.conversation_id,
            self._shown_key,
            client.target.known_ip,
            self._options,
            self._prompter,
            self._log,
        )
        async with updating(update, ahead=ahead):
            yield

    def _warn_of_weak_exchange(self, client: ClientConversation) -> None:
        exchange = client.conversation.engine.key_exchange
        if self._options.warn_weak_crypto == "yes" and "MLKEM" not in exchange.upper():
            self._log.info(
                "** WARNING: connection is not using a post-quantum key exchange algorithm."
            )
            self._log.info("** What is recorded today may be read by a quantum computer later.")

    def _run_local_command(self) -> None:
        """LocalCommand, with our own standard streams. Its exit status is its own business."""
        import subprocess

        command = wishes.local_command_text(self._invocation)
        self._log.debug(f"Executing command: '{command}'")
        shell = os.environ.get("SHELL") or "/bin/sh"
        subprocess.run([shell, "-c", command], check=False)

    # ----- what is asked for

    async def _run_session(
        self, client: ClientConversation, wish: SessionWish, forwards: "Forwards | None"
    ) -> Ending:
        asked = self._early.session or open_session(client, wish, self._log)
        self._log.debug("Entering interactive session.")
        run = SessionRun(
            asked,
            wish,
            self._log,
            connections=client.list_channels,
            command_line=self._command_line(forwards),
        )
        return await run.run()

    @property
    def _has_command_line(self) -> bool:
        """Whether `~C` may come to add forwardings."""
        has_terminal = self._session is not None and self._session.terminal is not None
        return has_terminal and self._options.enable_escape_commandline

    def _command_line(self, forwards: "Forwards | None") -> Callable[[], Awaitable[None]] | None:
        if forwards is None or not self._has_command_line:
            return None

        async def open_command_line() -> None:
            from sshoq.client.command_line import CommandLine

            permitted = self._options.permit_local_command
            line = CommandLine(forwards, self._prompter, self._log, permits_programs=permitted)
            await line.run()

        return open_command_line

    async def _run_stdio(self, client: ClientConversation) -> Ending:
        from sshoq.client.stdio import run_stdio

        forward = self._options.stdio_forward
        assert forward is not None
        channel = self._early.stdio or await open_stdio(client, forward)
        return await run_stdio(channel, self._log)

    async def _run_files(self, client: ClientConversation, wish: "FileWish") -> Ending:
        from sshoq.client.file_run import run_files

        files = self._early.files or open_files(client, wish, self._requests.place)
        return await run_files(files, wish, self._log, client.gone)

    def _report(self, client: ClientConversation, ending: Ending) -> int:
        """The last words, when the terminal is as before, and the exit status."""
        has_terminal = self._session is not None and self._session.terminal is not None
        if ending.signal_number is not None:
            self._log.verbose(f"Killed by signal {ending.signal_number}.")
        elif ending.status is None and client.gone.done():
            self._log.error(client.gone.result())
        if has_terminal and ending.signal_number is None:
            self._log.info(f"Connection to {self._options.hostname} closed.")
        for line in client.describe_traffic():
            self._log.verbose(line)
        self._log.debug(f"Exit status {-1 if ending.status is None else ending.status}")
        return FAILED if ending.status is None else ending.status


def _load_host_key_update() -> None:
    """Behind the flight that asks: until it is answered there is nothing else to do."""
    import sshoq.client.host_key_update  # noqa: F401


def _file_wish(invocation: Invocation, log: Log) -> "FileWish | None":
    """-sftp and -scp, whose code is loaded for them alone."""
    if invocation.action not in ("sftp", "scp"):
        return None
    from sshoq.client.file_run import file_wish

    return file_wish(invocation, log)


# --------------------------------------------------------------------------- wishes


def session_wish(invocation: Invocation, agent: str | None) -> SessionWish | None:
    """None with -N. `agent`: where the agent to be taken along listens."""
    options = invocation.options
    if options.session_type == "none":
        return None
    is_subsystem = options.session_type == "subsystem"
    wants_terminal = invocation.wants_tty or (options.force_pty and os.isatty(0))
    terminal = None
    if wants_terminal:
        demanded = options.request_tty in ("yes", "force") or options.force_pty
        term = wishes.terminal_type(options, os.environ)
        terminal = TerminalWish.like(0, term, demanded=demanded)
    return SessionWish(
        command=None if is_subsystem else invocation.command or None,
        subsystem=invocation.command if is_subsystem else None,
        terminal=terminal,
        environment=wishes.environment_of(options, os.environ),
        escape_character=wishes.escape_character(options),
        stdin_null=options.stdin_null,
        forward_agent=agent is not None,
        keystroke_interval=options.obscure_keystroke_interval / 1000,
    )
