"""The user's X display, for programs at the server: what opens it, and the way to it.

Loaded only when X11 is forwarded. Rules and words are ssh's: a display that X clients may do
anything with (-Y) is opened with the user's own cookie, one for strangers (-X) with a cookie that
xauth has the display make, and that runs out. Neither leaves this machine.
"""

import asyncio
import os
import secrets
import stat
import threading
from contextlib import suppress
from functools import partial

from sshoq.client.dialing import dial, dial_path
from sshoq.client.log import Log
from sshoq.config.options import Options
from sshoq.forwarding.forwarder import SocketEnd
from sshoq.forwarding.relay import Source
from sshoq.forwarding.x11 import Authorization, SetupState, X11Error
from sshoq.named_tuple import NamedTuple
from sshoq.protocol.messages import MAX_NAME, X11Req

DEFAULT_PROTOCOL = "MIT-MAGIC-COOKIE-1"
COOKIE_SIZE = 16
VALID = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:/.-_")
"""What may stand in DISPLAY and in the words of an authorization: they go to other programs."""

SOCKET = "/tmp/.X11-unix/X{}"
FIRST_PORT = 6000
MAX_SCREEN = 400

TIMEOUT_SLACK = 60
"""Seconds by which a cookie outlives our will to let anybody use it: a display that forgets it
before that would take the client for one without a cookie."""
XAUTH_PATIENCE = 20.0
"""Seconds; xauth waits for locks, and for the display."""


class Place(NamedTuple):
    """Where a display is: at one of these Unix sockets, or at a port of a host."""

    paths: tuple[str, ...]
    host: str = ""
    port: int = 0


def find_place(name: str) -> Place:
    """Where DISPLAY leads to. ValueError says why nowhere."""
    if name.startswith("/"):
        return Place((_socket_in(name),))
    host, colon, rest = name.partition(":")
    if not colon:
        raise ValueError(f"Could not find ':' in DISPLAY: {name}")
    number = _leading_number(rest.rpartition(":")[2])
    if number is None:
        raise ValueError(f"Could not parse display number from DISPLAY: {name}")
    if host in ("", "unix"):
        path = SOCKET.format(number)
        return Place((path, f"\0{path}"))  # the second one is Linux's own, of no file system
    return Place((), host, FIRST_PORT + number)


def _socket_in(name: str) -> str:
    """A path, as macOS has it; perhaps with a display and a screen behind it."""
    ends = (name, name.rpartition(".")[0], name.rpartition(":")[0])
    return next((path for path in ends if _is_socket(path)), name)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _leading_number(text: str) -> int | None:
    digits = text[: len(text) - len(text.lstrip("0123456789"))]
    return int(digits) if 0 < len(digits) <= 5 and int(digits) <= 0xFFFF - FIRST_PORT else None


def screen_of(name: str) -> int:
    """The screen that the server's DISPLAY is to name, too."""
    digits = name.partition(":")[2].partition(".")[2]
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= 3
    return int(digits) if is_number and int(digits) <= MAX_SCREEN else 0


# --------------------------------------------------------------------------- what opens it


class Xauth:
    """The program that knows the cookies. All that it is told has been looked at."""

    def __init__(self, program: str | None, display: str, log: Log) -> None:
        self._program = program
        # Its file names displays of this machine by their sockets.
        is_local = display.startswith("localhost:")
        self._display = f"unix:{display[10:]}" if is_local else display
        self._log = log

    def trusted(self) -> tuple[str, str] | None:
        """Protocol and cookie of the user's own; None if there is none to be had."""
        return self._list()

    def untrusted(self, timeout: int) -> tuple[str, str] | None:
        """The same, made for the occasion: a client that shows it is kept away from the others.
        `timeout` in seconds; 0 leaves it to the display."""
        from shutil import rmtree  # both load much, and only here is it needed
        from tempfile import mkdtemp

        if self._program is None:
            return None
        directory = mkdtemp(prefix="ssh-")
        try:
            file = ("-f", f"{directory}/xauthfile")
            limit = () if timeout == 0 else ("timeout", str(timeout + TIMEOUT_SLACK))
            words = ("generate", self._display, DEFAULT_PROTOCOL, "untrusted", *limit)
            return self._list(*file) if self._run(*file, *words) is not None else None
        finally:
            rmtree(directory, ignore_errors=True)

    def _list(self, *file: str) -> tuple[str, str] | None:
        """One entry is one line: display, protocol, cookie."""
        output = self._run(*file, "list", self._display) or ""
        words = output.partition("\n")[0].split()[1:3]
        if len(words) != 2 or not is_hexadecimal(words[1]) or not is_valid(words[0]):
            return None
        protocol, cookie = words
        return (protocol, cookie) if max(len(protocol), len(cookie)) <= MAX_NAME else None

    def _run(self, *words: str) -> str | None:
        """What it printed; None if it failed."""
        import subprocess

        if self._program is None:
            return None
        self._log.debug2(f"xauth command: {self._program} {' '.join(words)}")
        nothing = subprocess.DEVNULL
        try:
            done = subprocess.run(
                [self._program, *words],
                stdin=nothing, stdout=subprocess.PIPE, stderr=nothing,
                timeout=XAUTH_PATIENCE, check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            self._log.debug(f"xauth: {error}")
            return None
        return done.stdout.decode("ascii", "replace")


def is_valid(text: str) -> bool:
    return VALID.issuperset(text)


def is_hexadecimal(text: str) -> bool:
    return bool(text) and len(text) % 2 == 0 and set(text) <= set("0123456789abcdefABCDEF")


def find_authorization(name: str, options: Options, log: Log) -> Authorization | None:
    """What opens the display, with its stand-in; None, and the user was told why, if it is not to
    be forwarded. Waits for programs."""
    if not is_valid(name):
        log.info(f'DISPLAY "{name}" invalid; disabling X11 forwarding')
        return None
    program: str | None = options.xauth_location
    if program is None or not os.path.exists(program):
        log.debug("No xauth program.")
        program = None
    xauth = Xauth(program, name, log)
    if options.forward_x11_trusted:
        found = xauth.trusted()
    else:
        found = xauth.untrusted(options.forward_x11_timeout)
        if found is None:
            log.error(
                "Warning: untrusted X11 forwarding setup failed: xauth key data not generated"
            )
            return None
    if found is None:
        log.info("Warning: No xauth data; using fake authentication data for X11 forwarding.")
        found = (DEFAULT_PROTOCOL, secrets.token_hex(COOKIE_SIZE))
    cookie = bytes.fromhex(found[1])
    return Authorization(found[0], cookie, secrets.token_bytes(len(cookie)))


# --------------------------------------------------------------------------- forwarding it


class ForwardedDisplay:
    """The display of DISPLAY, for all sessions of a connection. `prepare` comes first."""

    def __init__(self, name: str, options: Options, log: Log) -> None:
        self._name = name
        self._options = options
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._deadline: float | None = None
        self._found: asyncio.Future[Authorization | None] | None = None
        self._sessions: set[int] = set()

    def begin(self) -> "asyncio.Future[Authorization | None]":
        """Have what opens it asked for, once, by a thread that nobody has to wait for."""
        if self._found is not None:
            return self._found
        options = self._options
        if not options.forward_x11_trusted and options.forward_x11_timeout:
            self._deadline = self._loop.time() + 1 + options.forward_x11_timeout
        found = self._found = self._loop.create_future()

        def find() -> None:
            try:
                settle = partial(_settle, found, find_authorization(self._name, options, self._log))
            except BaseException as error:
                settle = partial(_fail, found, error)
            with suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(settle)

        threading.Thread(target=find, daemon=True).start()
        return found

    async def prepare(self) -> bool:
        """Whether it can be forwarded."""
        return await asyncio.shield(self.begin()) is not None

    def request_for(self, session: int) -> X11Req:
        """What to ask in that session, which from then on may use the display."""
        self._log.debug("Requesting X11 forwarding with authentication spoofing.")
        self._sessions.add(session)
        authorization = self._authorization
        cookie = authorization.stand_in.hex()
        return X11Req(False, authorization.protocol, cookie, screen_of(self._name))

    @property
    def _authorization(self) -> Authorization:
        assert self._found is not None
        authorization = self._found.result()
        assert authorization is not None
        return authorization

    def may_use(self, session: int) -> bool:
        """Whether the X clients of that session are let in, still."""
        if session not in self._sessions:
            return False
        return not self._is_over()

    def _is_over(self) -> bool:
        """Says so, too: as in ssh, it may turn out before or after the X client has spoken."""
        is_over = self._deadline is not None and self._loop.time() >= self._deadline
        if is_over:
            self._log.verbose("Rejected X11 connection after ForwardX11Timeout expired")
        return is_over

    async def read_setup(self, source: Source) -> bytes:
        """What an X client says first, for the display. X11Error if it may not have it."""
        state = SetupState(self._authorization)
        while data := await source.read():
            if self._is_over():
                raise X11Error("its time has run out")
            setup = state.receive(data)
            if setup is not None:
                return setup
        raise X11Error("the X client has gone")

    async def dial(self) -> SocketEnd:
        """A connection to the display. OSError, after the user was told."""
        try:
            place = find_place(self._name)
            return await self._dial(place)
        except ValueError as error:
            self._log.error(str(error))
            raise OSError(0, str(error)) from None

    async def _dial(self, place: Place) -> SocketEnd:
        for path in place.paths:
            with suppress(OSError):
                return await dial_path(path)
        where = place.paths[0] if place.paths else f"{place.host} port {place.port}"
        try:
            if place.paths:
                return await dial_path(place.paths[0])  # for what is wrong with it
            return await dial(place.host, place.port)
        except OSError as error:
            # The event loop's own words for it are no use to anybody.
            reason = os.strerror(error.errno) if error.errno else error.strerror or str(error)
            self._log.error(f"connect {where}: {reason}")
            raise


def _settle(
    found: "asyncio.Future[Authorization | None]", authorization: Authorization | None
) -> None:
    if not found.done():
        found.set_result(authorization)


def _fail(found: "asyncio.Future[Authorization | None]", error: BaseException) -> None:
    if not found.done():
        found.set_exception(error)
