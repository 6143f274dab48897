"""Process: main [root] reads, the monitor [root] asks. The Match lines of sshd_config: what they
may say, and whether they hold for a login.
"""

from collections.abc import Callable, Sequence

from sshoq.config.lexer import ConfigSyntaxError, ascii_lower, parse_port_number
from sshoq.config.patterns import (
    AddressListError,
    match_address_list,
    match_host_list,
    match_pattern_list,
)
from sshoq.config.usage import COMPATIBLE_VERSION
from sshoq.named_tuple import NamedTuple
from sshoq.server.values import BadValue


class Facts(NamedTuple):
    """What Match conditions look at; None and -1 where it is not known (`-T` without `-C`)."""

    user: str | None = None
    groups: tuple[str, ...] = ()
    host: str | None = None
    address: str | None = None
    local_address: str | None = None
    local_port: int = -1
    invalid_user: bool = False


class Condition(NamedTuple):
    """A Match line: everything on it must hold. No tests at all is "Match all"."""

    tests: tuple[tuple[str, str], ...]

    def looks_at(self, criterion: str) -> bool:
        return any(name == criterion for name, _ in self.tests)

    def holds(self, facts: Facts) -> bool:
        return all(_CRITERIA[name].holds(facts, argument) for name, argument in self.tests)


class Criterion(NamedTuple):
    holds: Callable[[Facts, str], bool]
    check: Callable[[str], None]
    """Raises BadValue for an argument that means nothing."""
    argument: bool = True


def _any_argument(argument: str) -> None:
    """Every text is a pattern."""


def _check_addresses(what: str) -> Callable[[str], None]:
    def check(argument: str) -> None:
        try:
            match_address_list(None, argument)
        except AddressListError:
            raise BadValue(
                "Bad Match condition", f"Invalid Match {what} argument '{argument}'"
            ) from None

    return check


def _check_port(argument: str) -> None:
    try:
        port = parse_port_number(argument)
    except ConfigSyntaxError:
        port = 0
    if port == 0:
        raise BadValue("Bad Match condition", f"Invalid LocalPort '{argument}' on Match line")


def _group_holds(facts: Facts, argument: str) -> bool:
    results = [match_pattern_list(group, argument) for group in facts.groups]
    return any(result > 0 for result in results) and not any(result < 0 for result in results)


_CRITERIA = {
    "user": Criterion(
        lambda facts, arg: facts.user is not None and match_pattern_list(facts.user, arg) > 0,
        _any_argument,
    ),
    "group": Criterion(_group_holds, _any_argument),
    "host": Criterion(
        lambda facts, arg: facts.host is not None and match_host_list(facts.host, arg) > 0,
        _any_argument,
    ),
    "address": Criterion(
        lambda facts, arg: match_address_list(facts.address, arg) > 0, _check_addresses("address")
    ),
    "localaddress": Criterion(
        lambda facts, arg: match_address_list(facts.local_address, arg) > 0,
        _check_addresses("localaddress"),
    ),
    "localport": Criterion(
        lambda facts, arg: facts.local_port == parse_port_number(arg), _check_port
    ),
    "rdomain": Criterion(lambda facts, arg: False, _any_argument),
    "version": Criterion(
        lambda facts, arg: match_pattern_list(COMPATIBLE_VERSION, arg) > 0, _any_argument
    ),
    "invalid-user": Criterion(lambda facts, arg: facts.invalid_user, _any_argument, argument=False),
}


def parse_condition(words: Sequence[str]) -> Condition:
    """The words of a Match line; `name=argument` may be one word."""
    pending = [part for word in words for part in _split_criterion(word)]
    if ascii_lower(pending[0]) == "all" if pending else False:
        if len(pending) > 1:
            raise _combined_all()
        return Condition(())
    tests: list[tuple[str, str]] = []
    while pending:
        written = pending.pop(0)
        name = ascii_lower(written)
        if name == "all":
            raise _combined_all()
        criterion = _CRITERIA.get(name)
        if criterion is None:
            raise BadValue("Bad Match condition", f"Unsupported Match attribute {written}")
        argument = pending.pop(0) if criterion.argument and pending else ""
        if criterion.argument and not argument:
            raise BadValue("Bad Match condition", f"Missing Match criteria for {written}")
        criterion.check(argument)
        tests.append((name, argument))
    if not tests:
        raise BadValue("Bad Match condition", "One or more attributes required for Match")
    return Condition(tuple(tests))


def _split_criterion(word: str) -> list[str]:
    name, equals, argument = word.partition("=")
    if equals and (ascii_lower(name) in _CRITERIA or not name):
        return [part for part in (name, argument) if part]
    return [word]


def _combined_all() -> BadValue:
    return BadValue("Bad Match condition", "'all' cannot be combined with other Match attributes")
