"""What may come when on a session, from both sides."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.protocol.channel import (
    ChannelEvent,
    Confirmed,
    Data,
    Eof,
    ExtendedData,
    Finished,
    Requested,
)
from sshoq.protocol.messages import (
    Break,
    ChannelRequest,
    EndOfWrite,
    Env,
    Exec,
    ExitSignal,
    ExitStatus,
    PtyReq,
    Shell,
    Signal,
    Subsystem,
    WindowChange,
    X11Req,
)
from sshoq.protocol.outcome import ProtocolError
from sshoq.protocol.session import (
    DEADLY_KEYS,
    NO_STATUS,
    SIGNALS,
    Phase,
    SessionClientState,
    SessionServerState,
)
from sshoq.protocol.version import PeerTraits
from tests.golden_replay import go_traits
from tests.protocol.speakers import channel, our_traits, requests

PTY = PtyReq("xterm", 80, 24)
RESIZE = WindowChange(100, 30)


def server(traits: PeerTraits | None = None) -> SessionServerState:
    return SessionServerState(channel(traits=traits or our_traits()))


def client(program: ChannelRequest, *, has_pty: bool = False, traits: PeerTraits | None = None
           ) -> SessionClientState:
    state = channel(traits=traits or go_traits(), is_client=True, opened_here=True)
    return SessionClientState(state, program, has_pty=has_pty)


def ask(state: SessionServerState, request: ChannelRequest) -> bool:
    """The request arrives and its turn comes; whoever may, gets it."""
    state.watch(Requested(request, True))
    permitted = state.permits(request)
    if permitted:
        state.granted(request)
    return permitted


# --------------------------------------------------------------------------- server


def test_the_usual_order() -> None:
    state = server()
    phases = [state.phase]
    for request in (Env("LANG", "C"), PTY, Shell(), RESIZE):
        assert ask(state, request)
        phases.append(state.phase)
    assert state.watch(Data(b"ls\n"))
    assert ask(state, Signal("INT"))
    state.exited()
    assert [*phases, state.phase] == [
        Phase.LARVAL, Phase.LARVAL, Phase.LARVAL, Phase.RUNNING, Phase.RUNNING, Phase.EXITED]


@pytest.mark.parametrize("late", [Shell(), Exec("x"), Subsystem("sftp"), PTY, Env("A", "b"),
                                  X11Req(True, "", "", 0)])
def test_what_is_too_late_is_refused_and_ends_a_go_clients_channel(late: ChannelRequest) -> None:
    ours = server()
    ask(ours, Exec("first"))
    assert not ask(ours, late)
    go = server(go_traits())
    ask(go, Exec("first"))
    with pytest.raises(ProtocolError):
        ask(go, late)


@pytest.mark.parametrize("early", [Signal("INT"), Break(500), EndOfWrite()])
def test_what_needs_a_program_is_refused_before_it(early: ChannelRequest) -> None:
    assert not ask(server(), early)
    assert not ask(server(go_traits()), early)


def test_one_terminal_at_most() -> None:
    state = server()
    assert ask(state, PTY)
    assert not ask(state, PTY)


def test_one_display_at_most() -> None:
    state = server()
    assert ask(state, X11Req(False, "MIT-MAGIC-COOKIE-1", "00", 0))
    assert not ask(state, X11Req(False, "MIT-MAGIC-COOKIE-1", "00", 0))


@pytest.mark.parametrize("running", [False, True])
def test_a_resize_without_a_terminal_is_harmless(running: bool) -> None:
    """C5: the Go client sends it whenever its own terminal changes."""
    state = server(go_traits())
    if running:
        ask(state, Exec("sleep 1"))
    assert not ask(state, RESIZE)


@pytest.mark.parametrize("crossing", [RESIZE, Signal("INT"), Break(0), EndOfWrite()])
def test_what_crosses_with_the_end_is_ignored(crossing: ChannelRequest) -> None:
    state = server(go_traits())
    ask(state, PTY)
    ask(state, Shell())
    state.exited()
    assert not ask(state, crossing)


def test_after_a_program_that_cannot_be_started_another_may() -> None:
    state = server()
    state.watch(Requested(Subsystem("nonesuch"), True))
    assert state.permits(Subsystem("nonesuch"))  # and then it is not granted
    assert ask(state, Shell())


@pytest.mark.parametrize("name", ["INT", "TERM", "USR1", "WINCH"])
def test_known_signals(name: str) -> None:
    state = server()
    ask(state, Shell())
    assert ask(state, Signal(name))


@pytest.mark.parametrize("name", ["", "SIGINT", "int", "RTMIN", "9", "INT\0"])
def test_unknown_signals_are_refused(name: str) -> None:
    state = server()
    ask(state, Shell())
    assert not ask(state, Signal(name))
    assert name not in SIGNALS


@pytest.mark.parametrize("request_", [ExitStatus(0), ExitSignal("TERM")])
def test_clients_do_not_tell_how_programs_end(request_: ChannelRequest) -> None:
    with pytest.raises(ProtocolError):
        server().watch(Requested(request_, False))


@given(st.lists(st.integers(0, 13), max_size=4))
def test_the_go_clients_wish_for_its_agent(places: list[int]) -> None:
    state = server(go_traits())
    text, edges = b"forward-agent", [0, *sorted(places), 13]
    for start, end in pairwise(edges):
        assert not state.watch(Data(text[start:end]))
    assert state.agent_wanted
    assert ask(state, Exec("ssh-add -L"))
    assert state.watch(Data(b"forward-agent"))


@pytest.mark.parametrize("text", [b"forward-agen!", b"x", b"forward-agentX", b"forward-agent" * 2])
def test_other_data_ahead_of_the_program_is_an_error(text: bytes) -> None:
    state = server()
    with pytest.raises(ProtocolError):
        state.watch(Data(text))


def test_half_a_wish_is_an_error() -> None:
    state = server()
    state.watch(Data(b"forward"))
    with pytest.raises(ProtocolError):
        state.watch(Requested(Shell(), True))


def test_stderr_from_a_client_is_an_error() -> None:
    state = server()
    ask(state, Shell())
    with pytest.raises(ProtocolError):
        state.watch(ExtendedData(1, b"x"))


def test_the_end_of_the_stream_is_the_end_of_input_to_ours_only() -> None:
    ours = server()
    ask(ours, Exec("cat"))
    assert ours.watch(Eof())
    assert ours.watch(Finished())
    go = server(go_traits())
    ask(go, Exec("cat"))
    with pytest.raises(ProtocolError):
        go.watch(Finished())


def test_a_stream_that_ends_before_any_program_is_over() -> None:
    with pytest.raises(ProtocolError):
        server().watch(Finished())


events: st.SearchStrategy[ChannelEvent] = st.one_of(
    st.builds(Requested, requests, st.booleans()), st.binary(max_size=15).map(Data),
    st.just(Data(b"forward-agent")), st.builds(ExtendedData, st.just(1), st.binary(max_size=5)),
    st.just(Eof()), st.just(Finished()),
)


@given(st.lists(events, max_size=8), st.booleans())
def test_any_events_are_in_order_or_a_protocol_error(
        heard: list[ChannelEvent], ours: bool) -> None:
    state = server(our_traits() if ours else go_traits())
    phases = []
    asked: set[type] = set()
    try:
        for event in heard:
            passed_on = state.watch(event)
            if isinstance(event, Data) and passed_on:
                assert asked & {Shell, Exec, Subsystem}
            if isinstance(event, Requested):
                asked.add(type(event.request))
            if isinstance(event, Requested) and state.permits(event.request):
                state.granted(event.request)
            phases.append(state.phase)
    except ProtocolError:
        pass
    assert phases == sorted(phases, key=lambda phase: phase.value)


# --------------------------------------------------------------------------- client


@pytest.mark.parametrize(("ending", "status"), [
    (ExitStatus(0), 0), (ExitStatus(37), 37), (ExitStatus(255), 255), (ExitStatus(70000), 112),
    (ExitSignal("TERM"), NO_STATUS),
])
def test_the_status_by_sshs_rules(ending: ChannelRequest, status: int) -> None:
    state = client(Shell())
    assert state.status == NO_STATUS
    state.watch(Requested(ending, False))
    assert state.status == status
    assert state.ending == ending


def test_a_go_server_says_nothing_behind_the_status() -> None:
    for traits, over in ((go_traits(), True), (our_traits(), False)):
        state = client(Shell(), traits=traits)
        assert not state.is_over
        state.watch(Requested(ExitStatus(0), False))
        assert state.is_over is over


def test_a_program_ends_once() -> None:
    state = client(Shell())
    state.watch(Requested(ExitStatus(0), False))
    with pytest.raises(ProtocolError):
        state.watch(Requested(ExitSignal("KILL"), False))


def test_everything_else_passes() -> None:
    state = client(Shell())
    for event in (Confirmed(30000), Data(b"x"), ExtendedData(1, b"x"),
                  Requested(Env("A", "b"), False), Eof(), Finished()):
        assert state.watch(event)


def test_rail_18_keys_that_could_end_a_go_server_stay_here() -> None:
    state = client(Exec("vi"), has_pty=True)
    assert state.typed(b"abc") == b"abc"
    assert not state.keys_withheld
    assert state.typed(memoryview(b"a\x03b\x1cc\x04")) == b"abc\x04"
    assert state.keys_withheld


@pytest.mark.parametrize("state", [
    client(Shell(), has_pty=True), client(Exec("cat")), client(Subsystem("sftp")),
    client(Exec("vi"), has_pty=True, traits=our_traits()),
])
def test_keys_are_safe_elsewhere(state: SessionClientState) -> None:
    assert state.typed(DEADLY_KEYS) == DEADLY_KEYS
    assert not state.keys_withheld
