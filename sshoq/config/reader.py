"""Reading ssh_config: the files in their order, and Host, Match and Include within them."""

from __future__ import annotations

import os
from stat import S_ISREG, S_IWGRP, S_IWOTH

from sshoq.config.keywords import (
    ALIASES,
    BLOCKS,
    DEPRECATED,
    IGNORED,
    KEYWORDS,
    UNSUPPORTED,
    Settings,
)
from sshoq.config.lexer import ConfigSyntaxError, read_lines, split_keyword, split_words
from sshoq.config.match import Matcher, MatchError, Target
from sshoq.config.patterns import MATCH, match_pattern, match_pattern_list
from sshoq.config.surroundings import Surroundings
from sshoq.config.tokens import ExpansionError, expand, expand_tilde
from sshoq.config.usage import DEBUG1, Notes
from sshoq.config.values import FatalLine, Line

TYPE_CHECKING = False  # what type checkers take for true; "collections" itself costs 1.5 ms
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DEPTH = 16
# OpenSSH has no such bound, but sixteen levels of a file that includes two would be 65,536 files.
MAX_FILES = 10_000
MAX_FILE = 64 * 1024 * 1024
COMMAND_LINE = "command-line"


class Source:
    """A file being read, and whether its lines count just now.

    never: it was included from a block that does not match, so no Host or Match in it can.
    """

    __slots__ = ("active", "depth", "name", "never", "user_file")

    def __init__(
        self,
        name: str,
        *,
        user_file: bool,
        depth: int = 0,
        active: bool = True,
        never: bool = False,
    ) -> None:
        self.name = name
        self.user_file = user_file
        self.depth = depth
        self.active = active
        self.never = never


class ConfigReader:
    """Gathers settings for one target. Mistakes become notes; a file with any ends the run."""

    def __init__(
        self, settings: Settings, target: Target, surroundings: Surroundings, notes: Notes
    ) -> None:
        self.settings = settings
        self.target = target
        self.surroundings = surroundings
        self.notes = notes
        self.matcher = Matcher(settings, target, surroundings, notes)

    def read_option(self, text: str) -> None:
        """A -o argument: one line, whose mistakes end the run at once."""
        source = Source(COMMAND_LINE, user_file=True)
        if not self.read_line(source, 0, text):
            raise self.notes.fatal()

    def read_files(self, config_file: str | None) -> None:
        """All files in their order, or the one of -F alone."""
        if config_file is None:
            self._read_standard_files()
        elif config_file != "none" and not self.read_file(Source(config_file, user_file=True)):
            raise self._cannot_open(config_file, self._error)

    def _read_standard_files(self) -> None:
        paths = self.surroundings.paths
        for path in (paths.user_own, paths.user):
            self.read_file(Source(path, user_file=True), check_owner=True)
        for path in (paths.system_own, paths.system):
            self.read_file(Source(path, user_file=False))

    _error: OSError | None = None
    _files_read = 0

    def _cannot_open(self, name: str, error: OSError | None) -> Exception:
        reason = error.strerror if error is not None else "No such file or directory"
        return self.notes.fatal(f"Can't open user config file {name[:100]}: {reason}")

    def read_file(self, source: Source, *, check_owner: bool = False) -> bool:
        """Read one file; False when it cannot be opened. Raises UsageError when it has mistakes."""
        self._files_read += 1
        if source.depth > MAX_DEPTH:
            raise self.notes.fatal("Too many recursive configuration includes")
        if self._files_read > MAX_FILES:
            raise self.notes.fatal("Too many configuration includes")
        data = self._load(source.name, check_owner)
        if data is None:
            return False
        self.notes.add(DEBUG1, f"Reading configuration data {source.name[:200]}")
        bad = sum(not self.read_line(source, number, line) for number, line in read_lines(data))
        if bad:
            raise self.notes.fatal(f"{source.name}: terminating, {bad} bad configuration options")
        return True

    def _load(self, name: str, check_owner: bool) -> bytes | None:
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            self._error = error if isinstance(error, OSError) else None
            return None
        try:
            if check_owner:
                self._check_owner(name, descriptor)
            return _read_all(descriptor)
        except IsADirectoryError:
            return b""
        finally:
            os.close(descriptor)

    def _check_owner(self, name: str, descriptor: int) -> None:
        """Nobody else may be able to write what decides whom we trust."""
        status = os.fstat(descriptor)
        if (
            status.st_uid not in (0, self.surroundings.uid)
            or status.st_mode & S_IWOTH
            or (status.st_mode & S_IWGRP and not self._is_own_group(descriptor, status))
        ):
            raise self.notes.fatal(f"Bad owner or permissions on {name}")

    def _is_own_group(self, descriptor: int, status: os.stat_result) -> bool:
        """As Debian's ssh has it, and of the user's own files alone."""
        is_own = status.st_uid == self.surroundings.uid
        return is_own and self.surroundings.only_owner_in_group(descriptor, status)

    def read_line(self, source: Source, number: int, text: str) -> bool:
        """Read one line; False when it was a mistake, which has then been noted."""
        parts = split_keyword(text)
        if parts is None:
            return True
        keyword, rest = parts
        try:
            if not rest:
                raise ConfigSyntaxError(f'no argument after keyword "{keyword}"')
            return self._read_directive(source, number, keyword, rest)
        except ConfigSyntaxError as error:
            where = f"{source.name[:200]} line {number}"
            complaints = [f"{where}: {complaint}" for complaint in error.complaints]
            if isinstance(error, FatalLine):
                raise self.notes.fatal(*complaints) from None
            for complaint in complaints:
                self.notes.error(complaint)
            return False

    def _read_directive(self, source: Source, number: int, keyword: str, rest: str) -> bool:
        known = ALIASES.get(keyword, keyword)
        row = KEYWORDS.get(known)
        if row is None and known not in BLOCKS and not self._is_passed_over(keyword):
            words = _words_or_none(rest)
            self.notes.error(f"{source.name}: line {number}: Bad configuration option: {keyword}")
            if words is None:
                raise ConfigSyntaxError("invalid quotes")
            return False
        line = Line(
            keyword,
            rest,
            split_words(rest),
            notes=self.notes,
            number=number,
            active=source.active,
            user_file=source.user_file,
            environ=self.surroundings.environ,
        )
        if row is not None:
            row.apply(line, self.settings)
        elif known in BLOCKS:
            return self._read_block(source, line)
        else:
            self._pass_over(source, line)
        _check_finished(line)
        return True

    def _is_passed_over(self, keyword: str) -> bool:
        if keyword in DEPRECATED or keyword in IGNORED or keyword in UNSUPPORTED:
            return True
        ignored = self.settings.get("ignore_unknown")
        return (
            isinstance(ignored, str) and match_pattern_list(keyword, ignored, lower=True) == MATCH
        )

    def _pass_over(self, source: Source, line: Line) -> None:
        line.take_all()
        where = f"{source.name} line {line.number}"
        if line.keyword in UNSUPPORTED:
            self.notes.error(f'{where}: Unsupported option "{line.keyword}"')
        elif line.keyword in DEPRECATED:
            self.notes.add(DEBUG1, f'{where}: Deprecated option "{line.keyword}"')
        elif line.keyword not in IGNORED:
            self.notes.add(DEBUG1, f'{where}: Ignored unknown option "{line.keyword}"')

    def _read_block(self, source: Source, line: Line) -> bool:
        if source.name == COMMAND_LINE:
            kind = "Include" if line.keyword == "include" else "Host"
            self.notes.error(f"{kind} directive not supported as a command-line option")
            return False
        handlers: dict[str, Callable[[Source, Line], bool]] = {
            "host": self._read_host,
            "match": self._read_match,
            "include": self._read_include,
        }
        return handlers[line.keyword](source, line)

    def _read_host(self, source: Source, line: Line) -> bool:
        source.active = False
        matched = None
        while (word := line.take()) is not None:
            if not word:
                raise ConfigSyntaxError("keyword host empty argument")
            if source.never:
                break
            negated = word.startswith("!")
            pattern = word[1:] if negated else word
            if not match_pattern(self.target.host, pattern):
                continue
            if negated:
                source.active, matched = False, None
                break
            source.active, matched = True, matched or pattern
        if matched is not None:
            where = f"{source.name[:200]} line {line.number}"
            self.notes.add(DEBUG1, f"{where}: Applying options for {matched[:100]}")
        return True

    def _read_match(self, source: Source, line: Line) -> bool:
        where = f"{source.name[:200]} line {line.number}"
        try:
            matched = self.matcher.evaluate(line.take_all(), where)
        except MatchError as error:
            for complaint in error.complaints:
                self.notes.error(complaint)
            raise ConfigSyntaxError("Bad Match condition") from None
        source.active = matched and not source.never
        return True

    def _read_include(self, source: Source, line: Line) -> bool:
        was_active = source.active
        while (word := line.take()) is not None:
            if not word:
                raise ConfigSyntaxError("keyword include empty argument")
            for path in self._find_included(source, word):
                included = Source(
                    path,
                    user_file=source.user_file,
                    depth=source.depth + 1,
                    active=was_active,
                    never=source.never or not was_active,
                )
                if not self.read_file(included, check_owner=True) and os.path.lexists(path):
                    if isinstance(self._error, FileNotFoundError):
                        continue
                    raise self._cannot_open(path, self._error)
        return True

    def _find_included(self, source: Source, word: str) -> list[str]:
        if word.startswith("~") and not source.user_file:
            raise ConfigSyntaxError(f"bad include path {word}.")
        try:
            path = expand(word, self.matcher.tokens(), self.surroundings.environ)
        except ExpansionError as error:
            for complaint in error.lines:
                self.notes.error(complaint)
            raise ConfigSyntaxError(f"Unable to expand include path {word}.") from None
        if path.startswith("~"):
            try:
                path = expand_tilde(path, self.surroundings.home, self.surroundings.home_of)
            except ExpansionError:
                return []
        elif not path.startswith("/"):
            base = f"{self.surroundings.home}/.ssh" if source.user_file else "/etc/ssh"
            path = f"{base}/{path}"
        return find_files(path)


def _check_finished(line: Line) -> None:
    if line.remaining:
        raise ConfigSyntaxError(f"keyword {line.keyword} extra arguments at end of line")


def _words_or_none(text: str) -> list[str] | None:
    try:
        return split_words(text)
    except ConfigSyntaxError:
        return None


def _read_all(descriptor: int) -> bytes:
    """The whole file, whatever kind it is; a bound keeps /dev/zero from filling the memory."""
    status = os.fstat(descriptor)
    if S_ISREG(status.st_mode) and status.st_size == 0:
        return b""
    pieces: list[bytes] = []
    size = 0
    while size < MAX_FILE and (piece := os.read(descriptor, 1 << 20)):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def find_files(pattern: str) -> list[str]:
    """The existing paths that fit a shell pattern, sorted by bytes as glob(3) does."""
    if "[" in pattern or "\\" in pattern:
        import glob

        return sorted(glob.glob(pattern), key=os.fsencode)
    found = ["/"] if pattern.startswith("/") else [""]
    parts = [part for part in pattern.split("/") if part]
    for part in parts:
        found = [path for base in found for path in _step(base, part)]
    return found


def _step(base: str, part: str) -> list[str]:
    """The entries that fit one component; hidden ones only when it begins with a dot."""
    prefix = base if base.endswith("/") or not base else f"{base}/"
    if "*" not in part and "?" not in part:
        path = prefix + part
        return [path] if os.path.lexists(path) else []
    try:
        names = os.listdir(base or ".")
    except OSError:
        return []
    hidden = part.startswith(".")
    fitting = [n for n in names if (hidden or not n.startswith(".")) and match_pattern(n, part)]
    return [prefix + name for name in sorted(fitting, key=os.fsencode)]
