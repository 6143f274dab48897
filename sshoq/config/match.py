"""The criteria of a Match line: a table of what each compares, evaluated left to right."""

from __future__ import annotations

from sshoq.config.keywords import Settings
from sshoq.config.lexer import ConfigSyntaxError, ascii_lower
from sshoq.config.patterns import (
    MATCH,
    AddressListError,
    match_cidr_list,
    match_host_list,
    match_pattern_list,
)
from sshoq.config.surroundings import Surroundings
from sshoq.config.tokens import ExpansionError, Tokens, expand
from sshoq.config.usage import COMPATIBLE_VERSION, DEBUG1, Notes

TYPE_CHECKING = False  # what type checkers take for true; "collections" itself costs 1.5 ms
if TYPE_CHECKING:
    from collections.abc import Callable


class Target:
    """Whom the configuration is read for. host: as typed, in the final pass the canonical name."""

    __slots__ = ("command", "final", "host", "typed")

    def __init__(self, typed: str, command: str = "") -> None:
        self.typed = typed
        self.host = typed
        self.command = command
        self.final = False


class MatchError(ConfigSyntaxError):
    """A Match line that cannot be read; complaints without file and line come first."""


class Matcher:
    """Evaluates Match lines against what has been set so far."""

    def __init__(
        self, settings: Settings, target: Target, surroundings: Surroundings, notes: Notes
    ) -> None:
        self.settings = settings
        self.target = target
        self.surroundings = surroundings
        self.notes = notes
        self.wants_final_pass = False

    def evaluate(self, words: list[str], where: str) -> bool:
        """Whether all criteria hold. Raises MatchError; UsageError when a command cannot be run."""
        queue = words[::-1]
        result, count = True, 0
        while queue:
            word = queue.pop()
            name, equals, attached = word.partition("=")
            if equals:
                queue.append(attached)
            negated = name.startswith("!")
            criterion = ascii_lower(name.removeprefix("!"))
            if criterion == "all":
                if count > 1 or queue:
                    raise MatchError(
                        f"{where}: '{name}' cannot be combined with other Match attributes"
                    )
                return result and not negated
            count += 1
            if criterion in ("final", "canonical"):
                if criterion == "final" and not negated:
                    self.wants_final_pass = True
                holds = self.target.final
            else:
                holds = self._compare(criterion, name.removeprefix("!"), queue, result, where)
            result = result and holds != negated
        if count == 0:
            raise MatchError("One or more attributes required for Match")
        return result

    def _compare(
        self, criterion: str, written: str, queue: list[str], so_far: bool, where: str
    ) -> bool:
        compare = _CRITERIA.get(criterion)
        if queue and queue[-1] == "=":
            queue.pop()
        if not queue or (not queue[-1] and criterion not in _EMPTY_ALLOWED):
            raise MatchError(f"Missing Match criteria for {written}")
        if compare is None and criterion != "exec":
            raise MatchError(f"Unsupported Match attribute {written}")
        argument = queue.pop()
        if compare is None:
            return self._run(argument, so_far, where)
        return compare(self, argument)

    def _run(self, argument: str, so_far: bool, where: str) -> bool:
        """Match exec: not run when the line has already failed."""
        try:
            command = expand(argument, self.tokens())
        except ExpansionError as error:
            raise self.notes.fatal(*error.lines) from None
        if not so_far:
            return False
        try:
            status = self.surroundings.run(command)
        except OSError as error:
            shell = self.surroundings.shell
            raise self.notes.fatal(f'Shell "{shell}" is not executable: {error.strerror}') from None
        if status < 0:
            raise self.notes.fatal(
                f"command '{command[:100]}' exited abnormally",
                f"{where}: match exec '{command[:100]}' error",
            )
        self.notes.add(DEBUG1, f"{where}: exec '{command[:100]}' returned {status}")
        return status == 0

    def current_host(self) -> str:
        """HostName as far as it is known, else the name typed."""
        hostname = self.settings.get("hostname")
        if not isinstance(hostname, str):
            return self.target.host
        if self.target.final:
            return hostname
        try:
            return expand(hostname, {"h": self.target.host})
        except ExpansionError as error:
            raise self.notes.fatal(*error.lines) from None

    def user(self) -> str:
        user = self.settings.get("user")
        return user if isinstance(user, str) else self.surroundings.user

    def tokens(self) -> Tokens:
        """The tokens as far as they are known in the middle of reading."""
        host = self.current_host()
        alias = self.settings.get("host_key_alias")
        jump = self.settings.get("proxy_jump")
        tokens = Tokens(
            d=self.surroundings.home,
            h=host,
            i=str(self.surroundings.uid),
            j=last_hop(jump) if isinstance(jump, str) else "",
            k=alias if isinstance(alias, str) else host,
            L=self.surroundings.host.partition(".")[0],
            l=self.surroundings.host,
            n=self.target.typed,
            p=str(self.settings.get("port", 22)),
            r=self.user(),
            u=self.surroundings.user,
        )
        return tokens

    def _local_network(self, networks: str) -> bool:
        try:
            match_cidr_list(None, networks)
            addresses = self.surroundings.interfaces()
            return any(match_cidr_list(address, networks) == MATCH for address in addresses)
        except AddressListError as error:
            raise self.notes.fatal(f"Invalid Match localnetwork: {error}") from None

    def _session_kind(self) -> str:
        kind = self.settings.get("session_type")
        if kind in ("none", "subsystem"):
            return str(kind)
        return "exec" if self.target.command else "shell"

    def _tagged(self, patterns: str) -> bool:
        tag = str(self.settings.get("tag") or "")
        return not tag if not patterns else match_pattern_list(tag, patterns) == MATCH

    def _command(self, patterns: str) -> bool:
        command = self.target.command
        return not command if not patterns else match_pattern_list(command, patterns) == MATCH


def last_hop(jump: str) -> str:
    """The host of the last hop of a ProxyJump value: what %j stands for."""
    if not jump:
        return ""
    from sshoq.config.destination import parse_jump_host

    return parse_jump_host(jump.rpartition(",")[2]).host


_EMPTY_ALLOWED = frozenset(("tagged", "command"))

_CRITERIA: dict[str, Callable[[Matcher, str], bool]] = {
    "command": Matcher._command,
    "host": lambda m, p: match_host_list(m.current_host(), p) == MATCH,
    "localnetwork": Matcher._local_network,
    "localuser": lambda m, p: match_pattern_list(m.surroundings.user, p) == MATCH,
    "originalhost": lambda m, p: match_host_list(m.target.typed, p) == MATCH,
    "sessiontype": lambda m, p: match_pattern_list(m._session_kind(), p) == MATCH,
    "tagged": Matcher._tagged,
    "user": lambda m, p: match_pattern_list(m.user(), p) == MATCH,
    "version": lambda m, p: match_pattern_list(COMPATIBLE_VERSION, p) == MATCH,
}
