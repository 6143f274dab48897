"""The layout of the package as a check: who may import what, what each process may load, and that
the manual names everything.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sshoq"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Floor by floor: a folder imports only from floors below it, besides itself.
MAY_IMPORT: dict[str, set[str]] = {
    "wire": set(),
    "der": set(),
    "listening": set(),
    "process_title": set(),
    "named_tuple": set(),
    "quick_imports": set(),
    "file_frames": {"wire"},
    "protocol": {"wire"},
    "auth": {"der", "wire"},
    "config": set(),
    "transport": {"protocol", "der", "wire"},
    "forwarding": {"transport", "config", "auth", "protocol", "listening", "wire"},
    "client": {
        *("forwarding", "transport", "config", "auth", "protocol"),
        *("file_frames", "listening", "process_title", "wire"),
    },
    "server": {
        *("forwarding", "transport", "config", "auth", "protocol"),
        *("file_frames", "listening", "process_title", "wire"),
    },
    "paramiko": set(),
    "__main__": {"client", "quick_imports"},
    "__init__": set(),
}

FOR_EVERYBODY = {"named_tuple"}

# The rules of the protocol and the one codec do no input or output; time is an argument.
PURE = ("named_tuple", "wire", "der", "file_frames", "protocol", "config")
IMPURE_MODULES = {"asyncio", "select", "selectors", "signal", "subprocess", "threading", "time"}
# Text to bytes, and no socket.
ADDRESS_FORMATS = {f"socket.{name}" for name in ("AF_INET", "AF_INET6", "inet_ntop", "inet_pton")}
# The configuration asks the resolver and runs `Match exec`, but has no socket and no event loop.
ALLOWED_IN_CONFIG = {"subprocess", "socket", "time"}

BECOMES_A_USER = {
    *("setuid", "setgid", "seteuid", "setegid", "setreuid", "setregid"),
    *("setresuid", "setresgid", "setgroups", "initgroups"),
}

# What runs as root besides the user's own code; it must never load what parses packets.
ROOT_MODULES = ("sshoq.server.main", "sshoq.server.monitor")
NEVER_IN_ROOT = ("asyncio", "aioquic", "sshoq.protocol", "sshoq.transport", "sshoq.forwarding")

# What a plain question to the client may not load: each would cost more than the answer.
NEVER_FOR_A_QUESTION = ("asyncio", "aioquic", "cryptography", "paramiko", "dataclasses", "logging")

PROCESSES = ("main", "router", "network process", "monitor", "session leader", "all of them")


def floor(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> Iterator[str]:
    """Every module imported anywhere in the file, late imports too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def needed_modules(path: Path) -> set[str]:
    """As above, but `from a import b` counts as `a.b` alone."""
    names = set(imported_modules(path))
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_folder_imports_only_from_floors_below(path: Path) -> None:
    here = floor(path)
    allowed = MAY_IMPORT[here] | {here} | FOR_EVERYBODY
    for name in imported_modules(path):
        top, _, rest = name.partition(".")
        if top == "sshoq" and rest:
            assert rest.split(".")[0] in allowed | {"__version__"}, f"{here} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_one_file_knows_aioquic(path: Path) -> None:
    names = {name.split(".")[0] for name in imported_modules(path)}
    assert "aioquic" not in names or path == PACKAGE / "transport/quic.py"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_pure_folders_do_no_io(path: Path) -> None:
    if floor(path) not in PURE:
        return
    banned = IMPURE_MODULES | {"socket"}
    if floor(path) == "config":
        banned -= ALLOWED_IN_CONFIG
    assert not banned & {name.split(".")[0] for name in needed_modules(path) - ADDRESS_FORMATS}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_login_becomes_a_user(path: Path) -> None:
    if path == PACKAGE / "server/login.py":
        return
    attributes = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    assert not BECOMES_A_USER & attributes


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=name_of)
def test_a_package_file_re_exports_nothing(path: Path) -> None:
    names = [
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert not names


@pytest.mark.parametrize("path", sorted((PACKAGE / "server").glob("*.py")), ids=name_of)
def test_a_server_file_says_which_process_runs_it(path: Path) -> None:
    if path.name == "__init__.py":
        return
    first_line = path.read_text().partition("\n")[0]
    assert first_line.startswith('"""Process: '), first_line
    assert any(process in first_line for process in PROCESSES), first_line


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after the statement."""
    script = f"import sys\n{statement}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def offending(loaded: set[str], banned: tuple[str, ...]) -> set[str]:
    return {name for name in loaded for bad in banned if name == bad or name.startswith(bad + ".")}


@pytest.mark.parametrize("module", ROOT_MODULES)
def test_root_code_never_loads_what_parses_packets(module: str) -> None:
    assert not offending(loaded_by(f"import {module}"), NEVER_IN_ROOT)


def local_closure(module: str) -> set[Path]:
    """The files of the package that the module reaches, by any import that stands in it."""
    found: set[Path] = set()
    waiting = [PACKAGE.parent / (module.replace(".", "/") + ".py")]
    while waiting:
        path = waiting.pop()
        if path in found or not path.exists():
            continue
        found.add(path)
        waiting += [
            ROOT / (name.replace(".", "/") + ".py")
            for name in imported_modules(path)
            if name.startswith("sshoq.")
        ]
    return found


def test_the_monitor_imports_nothing_late_either() -> None:
    """In the subprocess above, an import inside a function would go unseen."""
    names = {
        name for path in local_closure("sshoq.server.monitor") for name in imported_modules(path)
    }
    assert not offending(names, NEVER_IN_ROOT)


@pytest.mark.parametrize("arguments", [["-V"], ["-G", "example.org"], ["-Q", "key"]])
def test_a_question_to_the_client_is_cheap(arguments: list[str]) -> None:
    statement = (
        "from sshoq.client.main import run_program\n"
        f"sys.argv = ['sshoq', '-F', 'none', *{arguments!r}]\n"
        "run_program()\n"
        "sys.stdout.flush()"
    )
    assert not offending(loaded_by(statement), NEVER_FOR_A_QUESTION)


def manual(name: str) -> str:
    """The page without the markup that hides names: fonts, escaped hyphens, mdoc's flag macro."""
    text = (ROOT / "man" / name).read_text()
    text = re.sub(r"\\f[BIRP]|\\&", "", text).replace("\\-", "-")
    return re.sub(r"\bFl ", "-", text)


def keyword_table(module: str) -> list[str]:
    """The names in a module's table, whose rows have them as `name` or are reached by them."""
    keywords = importlib.import_module(module).KEYWORDS
    rows = keywords.values() if isinstance(keywords, dict) else keywords
    return sorted(str(row.name) for row in rows)


@pytest.mark.parametrize(
    ("page", "module"),
    [
        ("sshoq_config.5", "sshoq.config.keywords"),
        ("sshoq_server_config.5", "sshoq.server.keywords"),
    ],
)
def test_the_manual_names_every_keyword(page: str, module: str) -> None:
    text = manual(page).lower()
    missing = [name for name in keyword_table(module) if name.lower() not in text]
    assert not missing


def client_flags() -> set[str]:
    """Letters and the Go client's words, as the parser has them."""
    arguments = importlib.import_module("sshoq.config.arguments")
    tables = (arguments.SWITCHES, arguments.WITH_ARGUMENT, arguments.LONG_FLAGS)
    return {f"-{name}" for table in tables for name in table}


def server_flags() -> set[str]:
    """The words of the usage line: sshd's letters stand there one by one, or in a bundle."""
    usage = importlib.import_module("sshoq.server.flags").USAGE
    words = re.findall(r"(?<=[\[\s])-([A-Za-z0-9][A-Za-z0-9-]*)", usage)
    bundles = {letter for word in words if "-" not in word and word[0].isdigit() for letter in word}
    return {f"-{name}" for name in {word for word in words if not word[0].isdigit()} | bundles}


@pytest.mark.parametrize(
    ("page", "flags"), [("sshoq.1", client_flags), ("sshoq-server.8", server_flags)]
)
def test_the_manual_names_every_flag(page: str, flags: Callable[[], set[str]]) -> None:
    text = manual(page)
    missing = [flag for flag in sorted(flags()) if not re.search(rf"{flag}(?![\w-])", text)]
    assert not missing


@pytest.mark.parametrize("page", sorted((ROOT / "man").glob("*.[158]")), ids=lambda path: path.name)
def test_the_manual_renders_without_complaint(page: Path) -> None:
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(page)],
        capture_output=True,
        env=os.environ | {"MANWIDTH": "100", "LC_ALL": "C.UTF-8"},
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
