"""The command line of `~C`: what a line means, and what is answered."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from sshoq.client.command_line import CommandLine, parse_place
from sshoq.client.forwards import Forwards
from sshoq.client.log import Log
from sshoq.client.prompt import Prompter
from sshoq.config.forward_spec import Forward
from sshoq.config.lexer import ConfigSyntaxError
from sshoq.config.usage import INFO


class FakeSide:
    """The forwardings of one direction, and what `add` answers."""

    def __init__(self, name: str, answer: object, *, grants: bool) -> None:
        self.name = name
        self.answer = answer
        self.grants = grants
        self.asked: list[tuple[str, Forward]] = []

    async def add(self, forward: Forward) -> object:
        self.asked.append((self.name, forward))
        return self.answer

    def cancel(self, wanted: Forward) -> bool:
        self.asked.append((f"cancel {self.name}", wanted))
        return self.grants


class FakeForwards:
    """Grants what is asked, if it may, and knows one forwarding of each kind."""

    def __init__(self, *, grants: bool = True) -> None:
        self.local = FakeSide("local", grants, grants=grants)
        self.remote = FakeSide("remote", 0 if grants else None, grants=grants)

    @property
    def asked(self) -> list[tuple[str, Forward]]:
        return self.local.asked + self.remote.asked


def obey(line: str, forwards: FakeForwards, *, permits_programs: bool = False) -> list[str]:
    said: list[str] = []
    log = Log(INFO, lambda level, text: said.append(text))
    command_line = CommandLine(
        cast(Forwards, forwards),
        Prompter({}, pytest.fail, tty="/nonexistent"),
        log,
        permits_programs=permits_programs,
    )
    asyncio.run(command_line.obey(line))
    return said


@pytest.mark.parametrize(
    ("line", "kind", "forward"),
    [
        (
            "-L 8080:inside:80",
            "local",
            Forward(listen_port=8080, connect_host="inside", connect_port=80),
        ),
        (
            "L*:8080:[::1]:80",
            "local",
            Forward(listen_host="*", listen_port=8080, connect_host="::1", connect_port=80),
        ),
        ("-D 1080", "local", Forward(listen_port=1080, dynamic=True)),
        (
            "-R8080:inside:80",
            "remote",
            Forward(listen_port=8080, connect_host="inside", connect_port=80),
        ),
        ("-R 1080", "remote", Forward(listen_port=1080, dynamic=True)),
        ("-KL 8080", "cancel local", Forward(listen_port=8080)),
        ("-KD localhost:1080", "cancel local", Forward(listen_host="localhost", listen_port=1080)),
        ("KR[::1]:8080", "cancel remote", Forward(listen_host="::1", listen_port=8080)),
    ],
)
def test_line_asks_for_what_ssh_would_ask_for(line: str, kind: str, forward: Forward) -> None:
    forwards = FakeForwards()
    answer = "Canceled forwarding." if kind.startswith("cancel") else "Forwarding port."
    assert obey(line, forwards) == [answer]
    assert forwards.asked == [(kind, forward)]


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("-L foo", "Bad local forwarding specification."),
        ("-L", "Bad local forwarding specification."),
        ("-R foo", "Bad remote forwarding specification."),
        ("-D foo:bar:baz", "Bad dynamic forwarding specification."),
        ("-KL foo", "Bad forwarding close specification."),
        ("-KL 0", "Bad forwarding close specification."),
        ("-KR", "Bad forwarding close specification."),
        ("-K", "Invalid command."),
        ("-X", "Invalid command."),
        ("!touch {mark}", "Invalid command."),
        ("nonsense", "Invalid command."),
    ],
)
def test_mistakes_are_told_in_the_words_of_openssh(
    line: str, answer: str, tmp_path: Path
) -> None:
    forwards = FakeForwards()
    mark = tmp_path / "mark"
    assert obey(line.format(mark=mark), forwards) == [answer]
    assert forwards.asked == []
    assert not mark.exists()


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("-L 1:x:2", "Port forwarding failed."),
        ("-R 1:x:2", "Port forwarding failed."),
        ("-KL 1", "Unknown port forwarding."),
        ("-KR 1", "Unknown port forwarding."),
    ],
)
def test_what_cannot_be_had_is_told(line: str, answer: str) -> None:
    assert obey(line, FakeForwards(grants=False)) == [answer]


def test_empty_line_does_nothing() -> None:
    assert obey("  ", FakeForwards()) == []
    assert obey("-", FakeForwards()) == []


def test_help_tells_of_programs_only_where_they_may_run() -> None:
    told = obey("help", FakeForwards(), permits_programs=True)
    assert told[0] == "Commands:"
    assert obey("?", FakeForwards()) == told[:-1]


def test_program_runs_where_it_is_permitted(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    assert obey(f"!touch {mark}", FakeForwards(), permits_programs=True) == []
    assert mark.exists()


def test_place_of_a_socket_is_its_path() -> None:
    assert parse_place("/run/it.sock") == Forward(listen_path="/run/it.sock")
    with pytest.raises(ConfigSyntaxError):
        parse_place("relative.sock")
