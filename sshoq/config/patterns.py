"""Wildcard patterns, pattern lists and address lists, with OpenSSH's meaning of each.

Used for Host, Match, known_hosts and authorized_keys alike. Matching takes time proportional to
text times pattern, never more, whoever wrote them.
"""

from sshoq.config.lexer import ascii_lower

MAX_LIST_ENTRY = 1023
NO_MATCH, MATCH, NEGATED = 0, 1, -1


class AddressListError(ValueError):
    """An address list that means nothing certain: an empty entry or bits beyond the mask."""


def match_pattern(text: str, pattern: str) -> bool:
    """Whether the whole text fits: '*' is any run, '?' any one byte, nothing else is special."""
    if "*" not in pattern and "?" not in pattern:
        return text == pattern
    if not (text.isascii() and pattern.isascii()):
        text, pattern = _bytewise(text), _bytewise(pattern)
    return _match_wildcards(text, pattern)


def _bytewise(text: str) -> str:
    """One character a byte, so that '?' stands for a byte as it does in OpenSSH."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _match_wildcards(text: str, pattern: str) -> bool:
    """Greedy matching that returns to the last star only, which suffices and keeps it quadratic."""
    at = want = 0
    star, resume = -1, 0
    while at < len(text):
        if want < len(pattern) and pattern[want] == "*":
            star, resume = want, at
            want += 1
        elif want < len(pattern) and pattern[want] in ("?", text[at]):
            at, want = at + 1, want + 1
        elif star >= 0:
            resume += 1
            at, want = resume, star + 1
        else:
            return False
    return not pattern[want:].strip("*")


def split_pattern_list(patterns: str) -> list[str]:
    """The entries of a comma list; OpenSSH does not count an empty one at the very end."""
    entries = patterns.split(",")
    if not entries[-1]:
        entries.pop()
    return entries


def match_pattern_list(text: str, patterns: str, *, lower: bool = False) -> int:
    """1 when an entry of the comma list fits, -1 when one with '!' does (it vetoes), else 0.

    With lower the patterns (not the text) are put in lower case first.
    """
    result = NO_MATCH
    for entry in split_pattern_list(patterns):
        negated = entry.startswith("!")
        pattern = entry[1:] if negated else entry
        if len(pattern) > MAX_LIST_ENTRY:
            return NO_MATCH
        if match_pattern(text, ascii_lower(pattern) if lower else pattern):
            if negated:
                return NEGATED
            result = MATCH
    return result


def match_host_list(host: str, patterns: str) -> int:
    """match_pattern_list for host names: neither side's case counts."""
    return match_pattern_list(ascii_lower(host), patterns, lower=True)


def parse_address(text: str) -> bytes | None:
    """The 4 or 16 bytes of a numeric address (also "127.1", "fe80::1%lo"), else None."""
    from _socket import AF_INET6, inet_pton  # no "socket": it would triple the start-up time

    host = text.partition("%")[0]
    if ":" in host:
        try:
            return inet_pton(AF_INET6, host)
        except (OSError, UnicodeError, ValueError):
            return None
    return _parse_ipv4(text)


def _parse_ipv4(text: str) -> bytes | None:
    """inet_aton's reading without its tolerance of trailing words: "10.1" is 10.0.0.1."""
    from _socket import inet_aton

    if not text.isascii() or not text or any(char.isspace() for char in text) or "\0" in text:
        return None
    try:
        return inet_aton(text)
    except (OSError, ValueError):
        return None


def parse_network(text: str) -> tuple[bytes, int] | None:
    """(address, prefix length) of "10.0.0.0/8" or a bare address; None if it is neither.

    Raises AddressListError when host bits are set: OpenSSH takes that for a mistake, not a pattern.
    """
    host, slash, length = text.partition("/")
    if slash and not (length.isascii() and length.isdigit() and len(length) <= 3):
        return None
    address = parse_address(host)
    if address is None:
        return None
    bits = int(length) if slash else len(address) * 8
    if bits > len(address) * 8:
        raise AddressListError(f'bad mask length in "{text}"')
    if int.from_bytes(address, "big") & ((1 << (len(address) * 8 - bits)) - 1):
        raise AddressListError(f'host bits set in "{text}"')
    return address, bits


def address_in_network(address: bytes, network: bytes, bits: int) -> bool:
    """Whether an address of the same family lies in the network."""
    if len(address) != len(network):
        return False
    shift = len(address) * 8 - bits
    return int.from_bytes(address, "big") >> shift == int.from_bytes(network, "big") >> shift


def match_address_list(address: str | None, patterns: str) -> int:
    """match_pattern_list for an address, with CIDR entries beside wildcards.

    None as the address matches nothing: that only checks the list. Raises AddressListError for an
    empty entry or an impossible mask.
    """
    numeric = parse_address(address) if address is not None else None
    if address is not None and numeric is None:
        return NO_MATCH
    result = NO_MATCH
    for entry in patterns.split(","):
        negated = entry.startswith("!")
        pattern = entry[1:] if negated else entry
        if not pattern:
            raise AddressListError("empty entry in address list")
        if not _address_fits(address, numeric, pattern):
            continue
        if negated:
            return NEGATED
        result = MATCH
    return result


def _address_fits(address: str | None, numeric: bytes | None, pattern: str) -> bool:
    network = parse_network(pattern)
    if address is None or numeric is None:
        return False
    if network is None:
        return match_pattern(address, pattern)
    return address_in_network(numeric, *network)


def match_cidr_list(address: str | None, networks: str) -> int:
    """Like match_address_list where only CIDR may stand: wildcards and '!' are errors."""
    numeric = parse_address(address) if address is not None else None
    result = NO_MATCH
    for entry in networks.split(","):
        network = parse_network(entry) if set(entry) <= _CIDR_CHARACTERS else None
        if network is None:
            raise AddressListError(f'"{entry}" is not a network')
        if numeric is not None and address_in_network(numeric, *network):
            result = MATCH
    return result


_CIDR_CHARACTERS = frozenset("0123456789abcdefABCDEF.:/")
