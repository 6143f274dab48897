"""Process: all of them. What the server's processes say to each other.

Every message has its declaration, and every direction between two processes that may talk its table
of what may be said. Who may ask what, and when, stands in the process that answers;
`privsep_socket.py` is what they are said on.
"""

from typing import Annotated

from sshoq.wire import Bool, Bytes, ListOf, Message, MessageSet, Text, Varint

# ------------------------------------------------------------------------- network process, monitor


class Chain(Message):
    """A key that the server can show: its TLS signature scheme, and DER, leaf first. The private
    key stays with the monitor."""

    scheme: Varint
    certificates: Annotated[tuple[bytes, ...], ListOf(Bytes)]


class Welcome(Message):
    """Monitor, first of all: what the network process needs to serve its connection."""

    url_path: Text
    chains: Annotated[tuple[Chain, ...], ListOf(Chain)]
    """What the server would rather show first, and no two of one scheme."""
    prefers_first: Bool
    """The first chain is for every client that can check it."""
    host_keys: Annotated[tuple[bytes, ...], ListOf(Bytes)]
    """All that the host has, in SSH's form."""
    peer_address: Text
    local_address: Text
    peer_port: Varint
    local_port: Varint
    login_grace_time: Varint
    """Seconds; 0: none. The monitor enforces it; the network process only gives up in time."""
    client_alive_interval: Varint
    client_alive_count_max: Varint
    congestion_control: Text
    verbosity: Varint
    """0 silent … 4 debug: what the network process may pass on as LogLine."""


class SignHandshake(Message):
    """Sign the content of a TLS 1.3 server CertificateVerify (RFC 8446 4.4.3), at most twice a
    connection.
    """

    scheme: Varint
    content: Bytes


class HandshakeSigned(Message):
    signature: Bytes


class Authenticate(Message):
    """One CONNECT request: who wants in, with which Authorization header, on which connection."""

    user: Text
    authorization: Bytes
    conversation_id: Bytes
    """The TLS exporter value, 32 bytes; the first one is pinned."""


class AuthenticationResult(Message):
    """Accepted, refused (another try is welcome), or closed (no more tries: end the connection)."""

    REFUSED = 0
    ACCEPTED = 1
    CLOSED = 2

    outcome: Varint
    banner: Text
    """Banner file and PAM messages to show before login; empty: none."""
    methods: Text = ""
    """What may be tried, as in RFC 4252 5.1: a comma list of publickey, password and
    keyboard-interactive."""
    reason: Text = ""
    """With CLOSED: what the client may be told of why."""
    is_partial: Bool = False
    """With REFUSED: this method has succeeded, and another is wanted besides."""
    challenge: Text = ""
    """With REFUSED: what the user is asked, or told, as the response has it. While it has questions
    the try is not over: the next Authenticate answers them, or ends it with another one."""


class LoginOpened(Message):
    """Follows ACCEPTED: PAM session open, leader started. Carries the socket to the session leader.
    """

    max_sessions: Varint
    client_alive_interval: Varint
    client_alive_count_max: Varint
    channel_timeouts: Annotated[tuple[str, ...], ListOf(Text)] = ()
    """type=time each, as configured."""
    unused_connection_timeout: Varint = 0
    """Seconds; 0: none."""


class LoginFailed(Message):
    """Follows ACCEPTED instead of LoginOpened: the account could not be entered."""

    reason: Text
    told: Text
    """What PAM's modules have said; the user is to see it."""


class MoveSocket(Message):
    """The client has moved there, proven. Carries the connection's UDP socket, which the monitor
    connects anew: whoever may call connect() may also undo it, and would get everybody's packets.
    """

    peer_address: Text
    peer_port: Varint


class SocketMoved(Message):
    """Answers MoveSocket. If the socket could not be connected it is as it was."""


class ProveHostKeys(Message):
    """After the login, once: sign for these that this connection's server has them
    (host_key_proof.py). The monitor knows by itself which connection that is.
    """

    keys: Annotated[tuple[bytes, ...], ListOf(Bytes)]
    """Of those in the welcome, each once at most."""


class HostKeysProven(Message):
    signatures: Annotated[tuple[bytes, ...], ListOf(Bytes)]


class LogLine(Message):
    """Network process: a line for the server's log, bounded and cleaned by the monitor."""

    level: Varint
    text: Text


# ------------------------------------------------------------------ network process, session leader


class AllocatePty(Message):
    """RFC 4254 6.2. `modes` are encoded terminal modes (section 8 there)."""

    session: Varint
    term: Text
    columns: Varint
    rows: Varint
    width: Varint
    height: Varint
    modes: Bytes


class PtyAllocated(Message):
    """Carries the pty's master side."""

    session: Varint


class StartProgram(Message):
    """RFC 4254 6.5: start the login shell, a command, or a subsystem; with the pty if one was
    allocated.
    """

    SHELL = 0
    EXEC = 1
    SUBSYSTEM = 2

    session: Varint
    kind: Varint
    command: Bytes
    environment: Annotated[tuple[bytes, ...], ListOf(Bytes)]
    """NAME=VALUE as the client asked for them; the leader applies AcceptEnv."""


class ProgramStarted(Message):
    """Without a pty it carries stdin's write end and the read ends of stdout and stderr."""

    session: Varint


class SessionRefused(Message):
    """The pty or the program of that session was not had, and why; the session may go on."""

    session: Varint
    reason: Text


class ServeFiles(Message):
    """Start a file server for the Go programs' file transfer, in a session of its own."""

    session: Varint


class FilesServed(Message):
    """Carries a stream socket to the file server. READY is the first byte that comes out of it; any
    other text is why there will be no more."""

    READY = b"\0"

    session: Varint


class SignalProgram(Message):
    """RFC 4254 6.9: to the program's process group, as the user. `name` without SIG."""

    session: Varint
    name: Text


class CloseSession(Message):
    """The channel is gone: hang up what still runs and forget the session."""

    session: Varint


class ProgramExited(Message):
    """Exit status, or the signal's name (without SIG) that ended the program."""

    session: Varint
    status: Varint
    signal: Text
    core_dumped: Bool


class Dial(Message):
    """Connect, as the user: TCP or UDP to a host and port, or to the Unix socket at `host`. The
    number is the channel's, as a session's is.
    """

    TCP = 0
    UDP = 1
    UNIX = 2

    channel: Varint
    kind: Varint
    host: Text
    port: Varint


class Dialled(Message):
    """Carries the connected socket, non-blocking."""

    channel: Varint


class Listen(Message):
    """Make a socket that listens, as the user. Kinds, `host` and `port` as in Dial; port 0: any."""

    channel: Varint
    kind: Varint
    host: Text
    port: Varint


class ListenForAgent(Message):
    """Make a Unix socket for a session's programs to reach the client's agent by; one for the
    whole login, so a session that asks later gets no descriptor."""

    session: Varint


class ListenForX11(Message):
    """RFC 4254 6.3.1: a display for the session's program, and the cookie that X clients are to
    show there. Answered as Listen."""

    session: Varint
    protocol: Text
    cookie: Text
    screen: Varint


class ListenerOpened(Message):
    """Carries what listens, non-blocking: a socket for each address. `port`: 0 for a Unix socket.
    """

    channel: Varint
    port: Varint


class ForwardingRefused(Message):
    """The connection or listener of that channel was not had, and why."""

    channel: Varint
    is_prohibited: Bool
    """The user may not have it at all."""
    reason: Text


class EndForwarding(Message):
    """The channel is gone: give up dialling, or remove what its listener left in the file system.
    """

    channel: Varint


# -------------------------------------------------------------------------- session leader, monitor


class RecordLogin(Message):
    """Carries the pty's slave side: give it to group tty, write utmp, wtmp and lastlog; answers
    Recorded.
    """

    session: Varint
    pid: Varint


class Recorded(Message):
    """`last_login` is the line to show on the terminal ("Last login: …"), or empty."""

    last_login: Text


class RecordLogout(Message):
    session: Varint


class ProgramRunning(Message):
    """A process group the monitor must hang up should the leader die."""

    pid: Varint


class ProgramGone(Message):
    pid: Varint


# --------------------------------------------------------------------------- router, main


class Admit(Message):
    """A validated first packet came from `peer` to `local` on listener number `listener`."""

    peer_address: Text
    peer_port: Varint
    local_address: Text
    local_port: Varint
    listener: Varint


class Admitted(Message):
    """Carries the connection's own connected UDP socket and the socket to its monitor."""


class NotAdmitted(Message):
    reason: Text


class RouterFull(Message):
    """It has no descriptor for one more connection, and turns newcomers away."""

    most: Varint


class NetworkProcessDied(Message):
    """Perhaps somebody is trying to take one over."""

    peer_address: Text
    peer_port: Varint
    signal: Varint
    is_validated: Bool
    """The address is the client's own."""


class RouterReady(Message):
    """The router is loaded and confined; the server may say that it listens."""


# -------------------------------------------------------------------------- network process, router


class NameGranted(Message):
    """One more connection ID for you, with the secret that ends the connection of that ID."""

    connection_id: Bytes
    reset_token: Bytes


class NameRetired(Message):
    """The client will not use this connection ID again. The router grants another one for it."""

    connection_id: Bytes


class Newcomer(Message):
    """At my socket, so from my client's address, came the first packet of another connection."""

    payload: Bytes


class Superseded(Message):
    """That other connection has shown that the address is its own, so yours has lost its client."""


class AddressValidated(Message):
    """The client has completed the handshake, so its address is real: no longer half open."""


class StrayDatagram(Message):
    """A datagram of that connection which came to the listener: its sender's address has changed.
    """

    peer_address: Text
    peer_port: Varint
    payload: Bytes


# --------------------------------------------------------------------------- monitor, main


class LoginSucceeded(Message):
    """No longer counts towards MaxStartups."""


class Penalty(Message):
    """Why the connection ended badly (PerSourcePenalties): `kind` is authfail, invaliduser, noauth,
    …
    """

    kind: Text


# --------------------------------------------------------------------------- the tables

TO_MONITOR = MessageSet(
    {
        1: SignHandshake,
        2: Authenticate,
        3: LogLine,
        4: AddressValidated,
        5: MoveSocket,
        6: ProveHostKeys,
    }
)
FROM_MONITOR = MessageSet(
    {
        1: Welcome,
        2: HandshakeSigned,
        3: AuthenticationResult,
        4: LoginOpened,
        5: LoginFailed,
        6: SocketMoved,
        7: HostKeysProven,
    }
)
TO_LEADER = MessageSet(
    {
        1: AllocatePty,
        2: StartProgram,
        3: SignalProgram,
        4: CloseSession,
        5: Dial,
        6: Listen,
        7: ListenForAgent,
        8: EndForwarding,
        9: ServeFiles,
        10: ListenForX11,
    }
)
FROM_LEADER = MessageSet(
    {
        1: PtyAllocated,
        2: ProgramStarted,
        3: SessionRefused,
        4: ProgramExited,
        5: Dialled,
        6: ListenerOpened,
        7: ForwardingRefused,
        8: FilesServed,
    }
)
LEADER_TO_MONITOR = MessageSet(
    {1: RecordLogin, 2: RecordLogout, 3: ProgramRunning, 4: ProgramGone}
)
MONITOR_TO_LEADER = MessageSet({1: Recorded})
ROUTER_TO_MAIN = MessageSet({1: Admit, 2: RouterReady, 3: RouterFull, 4: NetworkProcessDied})
MAIN_TO_ROUTER = MessageSet({1: Admitted, 2: NotAdmitted})
NETWORK_TO_ROUTER = MessageSet({1: NameRetired, 2: AddressValidated, 3: Newcomer})
ROUTER_TO_NETWORK = MessageSet({1: StrayDatagram, 2: NameGranted, 3: Superseded})
MONITOR_TO_MAIN = MessageSet({1: LoginSucceeded, 2: Penalty})
NOTHING = MessageSet({})
