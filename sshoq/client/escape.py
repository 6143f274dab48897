"""Escape characters of an interactive session: `~.` and its kin, told apart from what is typed.

Pure: bytes in, pieces out. What a command does stands in escape_commands.py; here is only when it
is one.
"""

from collections.abc import Iterator

from sshoq.named_tuple import NamedTuple


class Command(NamedTuple):
    """The user typed the escape character and this one, right after a line end."""

    character: bytes


class Escapes:
    """The typed bytes' state: kept across reads, since a terminal delivers key by key."""

    def __init__(self, character: bytes, known: frozenset[bytes]) -> None:
        self._character = character[0]
        self._known = known
        self._at_line_start = True  # the very first character of a session counts, too
        self._pending = False

    def feed(self, data: bytes | memoryview) -> Iterator[bytes | Command]:
        """What to send, and what to do, in order. Unknown escapes are sent as they were typed."""
        plain = bytearray()
        for byte in bytes(data):
            if self._pending:
                self._pending = False
                typed = bytes((byte,))
                if typed in self._known:
                    if plain:
                        yield bytes(plain)
                        plain.clear()
                    yield Command(typed)
                    continue
                if byte != self._character:
                    plain.append(self._character)
            elif self._at_line_start and byte == self._character:
                self._pending = True
                continue
            self._at_line_start = byte in b"\r\n"
            plain.append(byte)
        if plain:
            yield bytes(plain)


def visible(character: bytes) -> str:
    """As the help and the echo print it: ^Z for the control character."""
    code = character[0]
    return f"^{chr(code + 64)}" if code < 32 else chr(code)


SUSPEND = b"\x1a"

_HELP = (
    (b".", ".", "end the connection"),
    (b"B", "B", "send a BREAK"),
    (b"C", "C", "open a command line"),
    (b"R", "R", "change the encryption keys"),
    (b"Vv", "V/v", "fewer/more messages (LogLevel)"),
    (SUSPEND, "^Z", "suspend this program"),
    (b"#", "#", "list what is forwarded"),
    (b"&", "&", "go on in the background"),
    (b"?", "?", "this list"),
)

COMMANDS = frozenset(bytes((byte,)) for keys, _, _ in _HELP for byte in keys)


def help_text(character: bytes, *, command_line: bool) -> str:
    """What `~?` prints; scripts look for its first and its last line."""
    escape = visible(character)
    lines = [f"{escape}?", "Supported escape sequences:"]
    shown = [(key, text) for _, key, text in _HELP if command_line or key != "C"]
    lines += [f" {escape}{key:<4}- {text}" for key, text in shown]
    lines += [
        f" {escape}{escape:<4}- send the escape character itself",
        "(Note that escapes are only recognized immediately after newline.)",
    ]
    return "\n".join(lines)
