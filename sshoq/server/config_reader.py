"""Process: main [root]. Reads sshd_config's language, and says what is wrong in sshd's words.

Lines are read once, into the values outside of Match and a list of Match blocks; the first value
wins. How a value is written stands in `keywords.py`. What cannot be read stops the start.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from sshoq.config.lexer import (
    ConfigSyntaxError,
    ascii_lower,
    read_lines,
    split_keyword,
    split_words,
)
from sshoq.server import log
from sshoq.server.config import (
    Block,
    ConfigError,
    Note,
    ServerConfig,
    enabled_methods,
    split_methods,
)
from sshoq.server.keywords import (
    ALIASES,
    DEPRECATED,
    KEYWORDS,
    LATER,
    SILENT,
    UNSUPPORTED,
    VOID,
    Keyword,
    add_value,
    overlaid,
)
from sshoq.server.match import Condition, parse_condition
from sshoq.server.values import BadLine, BadValue, Line

DEFAULT_FILE = "/etc/ssh/sshoq_server_config"
INCLUDE_DIRECTORY = "/etc/ssh"
COMMAND_LINE = "command-line"
DEFAULT_PORT = 443
PID_FILE = "/run/sshoq-server.pid"
MAX_INCLUDE_DEPTH = 16
MAX_FILE = 1024 * 1024
"""No real configuration comes near; a device or a log by mistake must not be read into memory."""


class _Reader:
    """Files and command-line options, in the order in which they count."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.blocks: list[Block] = []
        self.notes: list[Note] = []
        self.fixed: frozenset[str] = frozenset()

    def read_option(self, text: str) -> None:
        """`-o`: one line. A bad one ends the start with 1 where its form is wrong, as with sshd."""
        try:
            self._read_line(text, _Place(COMMAND_LINE, 0, (), 0))
        except _CountedError as error:
            raise ConfigError([str(error)], 1) from None

    def read_file(self, path: str, conditions: tuple[Condition, ...] = (), depth: int = 0) -> None:
        """All of a file, or ConfigError with every wrong line up to the first that is fatal."""
        complaints: list[str] = []
        place = _Place(path, 0, conditions, depth)
        for number, text in read_lines(_contents(path)):
            place.number = number
            try:
                self._read_line(text, place)
            except _CountedError as error:
                complaints.append(str(error))
            except ConfigError as error:
                raise ConfigError([*complaints, *error.lines], error.status) from None
        if complaints:
            count = len(complaints)
            complaints.append(f"{path}: terminating, {count} bad configuration options")
            raise ConfigError(complaints)

    def _read_line(self, text: str, place: "_Place") -> None:
        parts = split_keyword(text)
        if parts is None:
            return
        name, raw = parts
        written = _as_written(text, name)
        if not raw:
            raise _CountedError(f'{place} no argument after keyword "{written}"')
        try:
            line = Line(written, split_words(raw), raw)
        except ConfigSyntaxError as error:
            raise _CountedError(f"{place} {error}") from None
        try:
            self._act(ALIASES.get(name, name), line, place)
        except BadLine as error:
            raise _CountedError(f"{place} {error}") from None
        except BadValue as error:
            raise ConfigError([*error.details, f"{place} {error}"]) from None

    def _act(self, name: str, line: Line, place: "_Place") -> None:
        if name in KEYWORDS:
            self._set(KEYWORDS[name], line, place)
        elif name == "match":
            self._match(line, place)
        elif name == "include":
            self._include(line, place)
        elif name in DEPRECATED:
            self.notes.append(Note(log.INFO, f"{place} Deprecated option {line.keyword}"))
        elif name in UNSUPPORTED:
            self.notes.append(Note(log.INFO, f"{place} Unsupported option {line.keyword}"))
        elif name not in SILENT:
            raise _CountedError(
                f"{place.path}: line {place.number}: Bad configuration option: {line.keyword}"
            )

    def _set(self, keyword: Keyword, line: Line, place: "_Place") -> None:
        if not keyword.in_match and not place.is_global:
            raise ConfigError(
                [f"{place} Directive '{line.keyword}' is not allowed within a Match block"]
            )
        value = keyword.kind.parse(line)
        if keyword.kind.single and len(line.words) > 1:
            raise BadLine(f"keyword {line.keyword} extra arguments at end of line")
        if keyword.treatment in (VOID, LATER):
            self.notes.append(Note(log.DEBUG1, f"{place} {keyword.name}: {keyword.treatment}"))
        if keyword.attribute in self.fixed:
            return
        target = self._target(place)
        if keyword.attribute == "subsystem":
            _refuse_second_subsystem(target.get("subsystem", {}), value)
        add_value(target, keyword.attribute, value)
        if place.conditions and place.is_global:
            # "Match all" counts twice: like the lines outside, and for each connection again.
            add_value(self.values, keyword.attribute, value)

    def _target(self, place: "_Place") -> dict[str, Any]:
        if not place.conditions:
            return self.values
        if not self.blocks or self.blocks[-1].conditions is not place.conditions:
            self.blocks.append(Block(place.conditions, {}))
        return self.blocks[-1].values

    def _match(self, line: Line, place: "_Place") -> None:
        if place.path == COMMAND_LINE:
            raise BadLine("Match directive not supported as a command-line option")
        condition = parse_condition(line.words)
        if condition.looks_at("rdomain"):
            text = "Match RDomain never holds: the server's sockets are in no routing domain"
            self.notes.append(Note(log.INFO, f"{place} {text}"))
        place.conditions = (*place.outer, condition)

    def _include(self, line: Line, place: "_Place") -> None:
        if place.path == COMMAND_LINE:
            raise BadLine("Include directive not supported as a command-line option")
        if place.depth >= MAX_INCLUDE_DEPTH:
            raise BadLine("Too many recursive configuration includes")
        if not line.words:
            raise BadValue(f"{line.keyword} missing filename argument")
        for word in line.words:
            if not word:
                raise BadLine(f"keyword {line.keyword} empty argument")
            for path in _expand_include(word):
                self.read_file(path, place.conditions, place.depth + 1)


class _CountedError(Exception):
    """A line in the wrong form, worded; reading goes on."""


class _Place:
    """Where the reader is. str() is what a message begins with."""

    __slots__ = ("conditions", "depth", "number", "outer", "path")

    def __init__(self, path: str, number: int, outer: tuple[Condition, ...], depth: int) -> None:
        self.path = path
        self.number = number
        self.outer = outer
        """Those of the line that included this file: a Match here narrows them, never ends them."""
        self.conditions = outer
        self.depth = depth

    def __str__(self) -> str:
        return f"{self.path} line {self.number}:"

    @property
    def is_global(self) -> bool:
        """Outside of Match, or only in "Match all"."""
        return not any(condition.tests for condition in self.conditions)


def _as_written(text: str, name: str) -> str:
    """The keyword in the letters of the file, for messages."""
    start = ascii_lower(text).find(name)
    return text[start : start + len(name)] if start >= 0 else name


def _refuse_second_subsystem(known: Mapping[str, str], value: Mapping[str, str]) -> None:
    for name in value:
        if name in known:
            raise BadValue(f"Subsystem '{name}' already defined.")


def _contents(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"], 1) from None
    if len(data) > MAX_FILE:
        raise ConfigError([f"{path}: File too large"], 1)
    return data


def _expand_include(pattern: str) -> list[str]:
    import glob

    full = pattern if pattern[0] in "/~" else f"{INCLUDE_DIRECTORY}/{pattern}"
    return sorted(glob.glob(full), key=os.fsencode)


def load(
    path: str | None,
    overrides: Sequence[str] = (),
    fallbacks: Sequence[str] = (),
    *,
    fixed: Sequence[str] = (),
    root: bool | None = None,
) -> ServerConfig:
    """Read command-line options, the file, then weaker `fallbacks`; ConfigError when that fails.

    `fixed` are attributes that add up, but of which the file's values do not count (`-p`).
    """
    reader = _Reader()
    for option in overrides:
        reader.read_option(option)
    reader.fixed = frozenset(fixed)
    if path is not None:
        reader.read_file(path)
    for option in fallbacks:
        reader.read_option(option)
    is_root = os.geteuid() == 0 if root is None else root
    values = _with_defaults(reader.values, is_root)
    config = ServerConfig(values, reader.blocks, reader.notes)
    _check_whole(config)
    return config


def _with_defaults(given: Mapping[str, Any], root: bool) -> dict[str, Any]:
    values = {keyword.attribute: keyword.default for keyword in KEYWORDS.values()}
    values["port"] = (DEFAULT_PORT,)
    values["use_pam"] = root
    values["pid_file"] = PID_FILE if root else None
    return overlaid(values, given)


def _check_whole(config: ServerConfig) -> None:
    """What no single line shows."""
    if (config.certificate is None) != (config.certificate_key is None):
        raise ConfigError(["Certificate and CertificateKey must be given together"])
    for name in ("AuthorizedKeysCommand", "AuthorizedPrincipalsCommand"):
        attribute = KEYWORDS[ascii_lower(name)].attribute
        command, user = getattr(config, attribute), getattr(config, f"{attribute}_user")
        if command is not None and user is None:
            raise ConfigError([f"{name} set without {name}User"])
    if config.authentication_methods != ("any",) and not config.method_lists:
        disabled = [
            f'Disabled method "{name}" in AuthenticationMethods list "{text}"'
            for text in config.authentication_methods
            for name in split_methods(text)
            if name not in enabled_methods(config.__dict__)
        ]
        raise ConfigError(
            [
                *disabled,
                "AuthenticationMethods cannot be satisfied by enabled authentication methods",
            ]
        )
