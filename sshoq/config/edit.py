"""`sshoq config get|set|unset HOST KEYWORD [VALUE]`: one line of a Host block, the rest untouched.

sshconf does the editing. It knows neither Match nor "Keyword=value" nor line ends other than \\n,
so whatever it would damage or misplace is refused here, and its result is checked before it
replaces the file.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sshoq.config.keywords import ALIASES, KEYWORDS, QUIC, Keyword
from sshoq.config.lexer import decode, split_keyword
from sshoq.config.match import Target
from sshoq.config.reader import ConfigReader, Source
from sshoq.config.surroundings import Surroundings
from sshoq.config.usage import Notes, UsageError

USAGE = (
    "usage: sshoq config get host keyword",
    "       sshoq config set host keyword value ...",
    "       sshoq config unset host keyword",
)
NOT_SET = 1
STRANGE_LINE_ENDS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


class Edit:
    """One change to one file: which block, which keyword, and the words of the new value."""

    def __init__(self, path: str, host: str, row: Keyword, value: str) -> None:
        self.path = os.path.realpath(path)
        self.host = host
        self.row = row
        self.value = value
        self.lines = _read(self.path)

    def current(self) -> list[str]:
        """The values that stand in the block, as written."""
        return [value for _, value in self._own_lines()]

    def _own_lines(self) -> list[tuple[str, str]]:
        """(line, value) for the keyword's lines in the block, by OpenSSH's way of reading them."""
        found: list[tuple[str, str]] = []
        inside = False
        for line in self.lines:
            parts = split_keyword(line)
            if parts is None:
                continue
            keyword, value = parts
            if keyword in ("host", "match"):
                inside = keyword == "host" and value == self.host
            elif inside and ALIASES.get(keyword, keyword) == self.row.name.lower():
                found.append((line, value))
        return found

    def refusal(self) -> str | None:
        """Why sshconf must not touch this, None if it may."""
        if any(char in line for line in self.lines for char in STRANGE_LINE_ENDS):
            return "it has line ends that an edit would change"
        blocks = [
            keyword for keyword, value in self._blocks() if (keyword, value) == ("host", self.host)
        ]
        if len(blocks) > 1:
            return f'it has {len(blocks)} blocks "Host {self.host}"'
        if self._is_followed_by_match():
            return f'a Match follows the block "Host {self.host}"'
        for line, _ in self._own_lines():
            written = line.split()
            if written[0].lower() != self.row.name.lower() or written[1:2] == ["="]:
                return f"{line.strip()!r} is written in a way that an edit would not find"
            if "#" in line:
                return f"the comment in {line.strip()!r} would be lost"
        return None

    def _blocks(self) -> list[tuple[str, str]]:
        parts = map(split_keyword, filter(_begins_block, self.lines))
        return [part for part in parts if part is not None]

    def _is_followed_by_match(self) -> bool:
        blocks = self._blocks()
        if ("host", self.host) not in blocks:
            return False
        following = blocks[blocks.index(("host", self.host)) + 1 :]
        return bool(following) and following[0][0] == "match"

    def set(self) -> list[str]:
        """The lines of the file with the keyword set to the value."""
        own = self._own_lines()
        if len(own) > 1:
            raise UsageError(
                f"{self.row.name} stands {len(own)} times for {self.host}: unset it first"
            )
        if ("host", self.host) not in self._blocks():
            return self._checked(self._with_new_block())
        editor = self._editor()
        editor.set(self.host, **{self.row.name: self.value})
        return self._checked(editor.config().split("\n"))

    def _with_new_block(self) -> list[str]:
        """In front of "Host *" and its comment, since its values would win otherwise."""
        block = [f"Host {self.host}", self._line(self.value)]
        if ("host", "*") not in self._blocks():
            return [*self.lines, *([""] if self.lines else []), *block]
        at = next(n for n, line in enumerate(self.lines) if split_keyword(line) == ("host", "*"))
        while at and self.lines[at - 1].lstrip().startswith("#"):
            at -= 1
        return [*self.lines[:at], *block, "", *self.lines[at:]]

    def unset(self) -> list[str]:
        """The lines of the file without the keyword."""
        editor = self._editor()
        editor.unset(self.host, self.row.name.lower())
        return self._checked(self._without_own_block(editor.config().split("\n")))

    def _without_own_block(self, lines: list[str]) -> list[str]:
        """A block in which nothing is left goes, too, if it has the look of one that we wrote:
        whoever put a comment to it may have plans for it."""
        if any(line != self._line(value) for line, value in self._own_lines()):
            return lines
        at = lines.index(f"Host {self.host}") if f"Host {self.host}" in lines else -1
        if at < 0 or (at and lines[at - 1].lstrip().startswith("#")):
            return lines
        rest = lines[at + 1 :]
        if rest and rest[0].strip() and not _begins_block(rest[0]):
            return lines
        following = next((line for line in rest if split_keyword(line) is not None), None)
        if following is not None and not _begins_block(following):
            return lines
        return [*lines[:at], *(rest if rest[:1] != [""] else rest[1:])]

    def _line(self, value: str) -> str:
        return f"    {self.row.name} {value}"

    def _editor(self) -> Any:  # sshconf has no types
        from sshconf import SshConfigFile

        return SshConfigFile(self.lines)

    def _checked(self, lines: list[str]) -> list[str]:
        """Nothing but lines of this keyword, and the block's frame, may have changed."""
        removed = Counter(self.lines) - Counter(lines)
        added = Counter(lines) - Counter(self.lines)
        own = {line for line, _ in self._own_lines()}
        frame = {"", f"Host {self.host}"}
        good = {line for line in added if line in frame or self._is_own(line)}
        stays = self._what_stays(lines) == self._what_stays(self.lines)
        if set(removed) - own - frame or set(added) - good or not stays:
            raise UsageError(f"{self.path}: an edit would change other lines")
        return lines

    def _what_stays(self, lines: list[str]) -> list[tuple[tuple[str, str] | None, str]]:
        """Every other line with an effect, and the block it stands in: an Include that slipped into
        one would be read for that host alone."""
        found: list[tuple[tuple[str, str] | None, str]] = []
        block = None
        for line in lines:
            parts = split_keyword(line)
            if parts is None:
                continue
            if parts[0] in ("host", "match"):
                block = parts
            if block != ("host", self.host):
                found.append((block, line))
        return found

    def _is_own(self, line: str) -> bool:
        parts = split_keyword(line)
        return parts is not None and parts[0] == self.row.name.lower()

    def write(self, lines: list[str], surroundings: Surroundings) -> None:
        """Replace the file in one step, if the new text can be read."""
        text = "\n".join(lines).rstrip("\n")
        text += "\n" if text else ""
        temporary = f"{self.path}.{os.getpid()}"
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        mode = os.stat(self.path).st_mode & 0o777 if os.path.exists(self.path) else 0o600
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text.encode("utf-8", "surrogateescape"))
                os.fchmod(file.fileno(), mode)
            self._read_back(text, surroundings)
            os.replace(temporary, self.path)
        except BaseException:
            os.unlink(temporary)
            raise

    def _read_back(self, text: str, surroundings: Surroundings) -> None:
        """Only what OpenSSH would take is written. Blocks are left alone: they may run commands."""
        notes = Notes()
        reader = ConfigReader({}, Target(self.host), surroundings, notes)
        source = Source(self.path, user_file=True)
        bad = 0
        for number, line in enumerate(text.split("\n"), start=1):
            parts = split_keyword(line)
            if parts is not None and parts[0] == self.row.name.lower():
                bad += not reader.read_line(source, number, line)
        if bad:
            raise notes.fatal()


def _begins_block(line: str) -> bool:
    parts = split_keyword(line)
    return parts is not None and parts[0] in ("host", "match")


def _read(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            text = decode(file.read())
    except FileNotFoundError:
        return []
    return text.split("\n")[:-1] if text.endswith("\n") else text.split("\n")


def run_edit(operands: Sequence[str], surroundings: Surroundings | None = None) -> int:
    """Carry out `config` with these operands; the exit status."""
    try:
        return _run(list(operands), surroundings or Surroundings())
    except UsageError as error:
        lines, status = error.lines, error.status
    except OSError as error:
        lines, status = (f"{error.filename}: {error.strerror}",), 255
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    return status


def _run(operands: list[str], surroundings: Surroundings) -> int:
    if len(operands) < 3 or (len(operands) > 3) != (operands[0] == "set"):
        raise UsageError(*USAGE)
    verb, host, keyword, *words = operands
    edit = Edit(_file_for(keyword, surroundings), host, _row(keyword), " ".join(words))
    if verb == "get":
        values = edit.current()
        sys.stdout.write("".join(f"{value}\n" for value in values))
        return 0 if values else NOT_SET
    if "\n" in host + edit.value or not host.strip():
        raise UsageError(*USAGE)
    if (refusal := edit.refusal()) is not None:
        raise UsageError(f"{edit.path}: not changed, because {refusal}")
    if verb == "unset":
        if not edit.current():
            return NOT_SET
        edit.write(edit.unset(), surroundings)
    else:
        edit.write(edit.set(), surroundings)
    return 0


def _row(keyword: str) -> Keyword:
    row = KEYWORDS.get(ALIASES.get(keyword.lower(), keyword.lower()))
    if row is None:
        raise UsageError(f"Bad configuration option: {keyword.lower()}")
    return row


def _file_for(keyword: str, surroundings: Surroundings) -> str:
    """SSHOQ's own keywords stand in a file that plain ssh does not read."""
    own = _row(keyword).quic == QUIC
    return surroundings.paths.user_own if own else surroundings.paths.user
