"""Modules are found where Python's own finder finds them, and are the same."""

from __future__ import annotations

import importlib.machinery
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sshoq.quick_imports import QuickFinder
from tests.client.little_server import client_environment

ROOT = Path(__file__).parents[1]
EXTENSION = importlib.machinery.EXTENSION_SUFFIXES[0]

HEAD = """
import sys
sys.path[:0] = {folders}
from sshoq.quick_imports import quicken_imports
{quicken}
"""
DESCRIBE = """
import {name} as module
spec = module.__spec__
print(spec.name, spec.origin, spec.cached, spec.parent, spec.has_location,
      list(spec.submodule_search_locations or []),
      getattr(module, "__file__", None), getattr(module, "__package__", None),
      getattr(module, "VALUE", None), sep="\\n")
"""


def run(program: str, *folders: Path, quick: bool, flags: tuple[str, ...] = ()) -> str:
    """What a fresh interpreter prints, which finds modules in the folders first."""
    head = HEAD.format(
        folders=[str(folder) for folder in folders], quicken="quicken_imports()" if quick else ""
    )
    done = subprocess.run(
        [sys.executable, *flags, "-c", head + program],
        cwd=ROOT,
        env=client_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def is_found_alike(name: str, *folders: Path) -> None:
    program = DESCRIBE.format(name=name)
    assert run(program, *folders, quick=True) == run(program, *folders, quick=False)


@pytest.mark.parametrize(
    "name", ["aioquic.quic.connection", "asyncio", "array", "sys", "os", "cryptography.x509",
             "aioquic._buffer", "email.mime.text", "sshoq.client.online", "_cffi_backend"]
)  # fmt: skip
def test_what_is_installed_is_found_alike(name: str) -> None:
    is_found_alike(name)


def write(folder: Path, name: str, value: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"VALUE = {value!r}\n")
    return path


def a_module(one: Path, other: Path) -> None:
    write(one, "thing.py", "first")
    write(other, "thing.py", "second")


def a_package(one: Path, other: Path) -> None:
    write(one, "thing/__init__.py", "package")
    write(one, "thing.py", "module beside it")


def a_package_behind(one: Path, other: Path) -> None:
    write(other, "thing/__init__.py", "package")
    one.mkdir()


def a_folder_beside_a_module(one: Path, other: Path) -> None:
    write(one, "thing/other.py", "no package")
    write(one, "thing.py", "module")


def a_folder_before_a_module(one: Path, other: Path) -> None:
    write(one, "thing/other.py", "no package")
    write(other, "thing.py", "module")


def a_namespace(one: Path, other: Path) -> None:
    write(one, "thing/a.py", "a")
    write(other, "thing/b.py", "b")


def compiled_alone(one: Path, other: Path) -> None:
    source = write(one, "thing.py", "compiled alone")
    py_compile.compile(str(source), cfile=str(one / "thing.pyc"))
    source.unlink()
    write(other, "thing.py", "second")


def an_archive(one: Path, other: Path) -> None:
    with zipfile.ZipFile(one, "w") as archive:
        archive.writestr("thing.py", "VALUE = 'archived'\n")
    write(other, "thing.py", "second")


def nothing_there(one: Path, other: Path) -> None:
    write(other, "thing.py", "second")


def no_folder(one: Path, other: Path) -> None:
    one.write_text("a file")
    write(other, "thing.py", "second")


def a_program_of_that_name(one: Path, other: Path) -> None:
    """As the script `sshoq` is one, whose folder is on the path."""
    write(one, "program.py", "is not meant").rename(one / "thing")
    write(other, "thing/__init__.py", "package")


def a_program_beside_a_module(one: Path, other: Path) -> None:
    a_program_of_that_name(one, other)
    write(one, "thing.py", "module")


def a_link(one: Path, other: Path) -> None:
    target = write(other, "real.py", "linked")
    one.mkdir()
    (one / "thing.py").symlink_to(target)


PLACES: list[Callable[[Path, Path], None]] = [
    a_module, a_package, a_package_behind, a_folder_beside_a_module, a_folder_before_a_module,
    a_namespace, compiled_alone, an_archive, nothing_there, no_folder, a_link,
    a_program_of_that_name, a_program_beside_a_module,
]  # fmt: skip


@pytest.mark.parametrize("put", PLACES, ids=lambda put: put.__name__)
def test_of_two_the_same_one_is_found(put: Callable[[Path, Path], None], tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    put(one, other)
    is_found_alike("thing", one, other)


def extension(name: str, folder: Path) -> None:
    """Put one of Python's there."""
    found = importlib.machinery.PathFinder.find_spec(name)
    if found is None or not str(found.origin).endswith(EXTENSION):
        pytest.skip(f"this Python's {name} is no file of its own")
    shutil.copy(str(found.origin), folder / f"{name}{EXTENSION}")


def test_an_extension_goes_before_source(tmp_path: Path) -> None:
    extension("_bisect", tmp_path)
    write(tmp_path, "_bisect.py", "source")
    is_found_alike("_bisect", tmp_path)


def test_a_package_goes_before_an_extension(tmp_path: Path) -> None:
    extension("_bisect", tmp_path)
    write(tmp_path, "_bisect/__init__.py", "package")
    is_found_alike("_bisect", tmp_path)


def test_what_is_missing_is_missing(tmp_path: Path) -> None:
    program = "try:\n import missing.at_all\nexcept ModuleNotFoundError as e: print(e, e.name)"
    assert run(program, tmp_path, quick=True) == "No module named 'missing' missing\n"


# ---------------------------------------------------------------------------- compiled files

IMPORT = "import thing; print(thing.VALUE, thing.__cached__)"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A module of which a compiled file is up to date."""
    path = write(tmp_path, "thing.py", "old")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    py_compile.compile(str(path))
    return path


def value_of(source: Path) -> str:
    return run(IMPORT, source.parent, quick=True).split()[0]


def compiled(source: Path) -> Path:
    return Path(importlib.util.cache_from_source(str(source)))


def test_what_was_compiled_is_used(source: Path) -> None:
    lied = source.with_name("lie.py")
    lied.write_text("VALUE = 'lie'\n")  # as long as the truth
    os.utime(lied, (1_700_000_000, 1_700_000_000))
    py_compile.compile(str(lied), cfile=str(compiled(source)))
    assert value_of(source) == "lie"


@pytest.mark.parametrize("how", ["time", "size", "magic", "short", "empty", "gone", "checked"])
def test_what_was_compiled_of_something_else_is_not(how: str, source: Path) -> None:
    path = compiled(source)
    data = path.read_bytes()
    source.write_text("VALUE = 'new'\n")
    if how == "size":
        source.write_text("VALUE = 'newer'\n")
    if how != "time":
        os.utime(source, (1_700_000_000, 1_700_000_000))
    if how == "magic":
        path.write_bytes(b"\0\0" + data[2:])
    elif how == "short":
        path.write_bytes(data[:10])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "gone":
        path.unlink()
    elif how == "checked":
        mode = py_compile.PycInvalidationMode.CHECKED_HASH
        py_compile.compile(str(source), invalidation_mode=mode)
    assert value_of(source) == ("newer" if how == "size" else "new")


def test_a_module_is_compiled_for_the_next_time(source: Path) -> None:
    compiled(source).unlink()
    program = f"sys.dont_write_bytecode = False\n{IMPORT}"
    assert run(program, source.parent, quick=True).split()[1] == str(compiled(source))
    assert compiled(source).exists()


def test_other_ways_to_compile_have_pythons_own_finder(source: Path) -> None:
    program = "print(any(type(f).__name__ == 'QuickFinder' for f in sys.meta_path))"
    assert run(program, quick=True) == "True\n"
    assert run(program, quick=True, flags=("-O",)) == "False\n"
    assert run(program, quick=True, flags=("-B", "-X", "pycache_prefix=/x")) == "False\n"


def test_finders_of_others_are_asked_first(source: Path) -> None:
    program = (
        "class Finder:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        print('asked for', name)\n"
        "sys.meta_path.insert(0, Finder)\n"
        "import thing\n"
    )
    assert run(program, source.parent, quick=True) == "asked for thing\n"


def test_a_module_that_was_written_since_is_found_when_python_would(tmp_path: Path) -> None:
    finder = QuickFinder()
    assert finder.find_spec("later", [str(tmp_path)]) is None
    write(tmp_path, "later.py", "later")
    finder.invalidate_caches()
    spec = finder.find_spec("later", [str(tmp_path)])
    assert spec is not None
    assert spec.origin == str(tmp_path / "later.py")


def test_the_installed_program_has_it() -> None:
    """Or all of this would be for nothing."""
    script = Path(sysconfig.get_path("scripts"), "sshoq").read_text()
    assert script.index("quicken_imports()") < script.index("from sshoq.client.main")
