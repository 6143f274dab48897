"""Finds modules as Python's own finder does, in half the time: a client imports 250 at a start.

It knows the plain cases alone: in a folder that is on the path itself an extension, or a source
file with an up-to-date compiled one beside it. Whatever looks in any way different it leaves to
Python's finder, which stands behind it. Of what is on the disk it remembers a folder's names, no
more and for this process only, so there is nothing that could grow old.
"""

import os
import sys
from importlib._bootstrap_external import MAGIC_NUMBER  # public in importlib.util, which takes 1 ms
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    ExtensionFileLoader,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
)
from marshal import loads  # noqa: TID251  # what Python itself has compiled

TYPE_CHECKING = False  # what type checkers take for true; "typing" itself costs 3 ms
if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from types import CodeType, ModuleType

_SUFFIX = f".{sys.implementation.cache_tag}.pyc"
_HEADER = MAGIC_NUMBER + bytes(4)
"""How a compiled file begins that is checked by its source's time and size (PEP 552)."""

_HEADER_LENGTH = 16


def quicken_imports() -> None:
    """From here on. Finders that others have put before Python's own go on to be asked first."""
    if PathFinder in sys.meta_path and not sys.pycache_prefix and sys.flags.optimize == 0:
        sys.meta_path.insert(sys.meta_path.index(PathFinder), QuickFinder())


class QuickFinder:
    """An entry of `sys.meta_path`."""

    def __init__(self) -> None:
        self._names: dict[str, Container[str] | None] = {}

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> ModuleSpec | None:
        """`path`: the folders of the package that the module is in."""
        own = name.rpartition(".")[2]
        for folder in sys.path if path is None else path:
            names = self._names_in(folder)
            if names is None:
                return None
            if own in names:
                inside = self._names_in(f"{folder}/{own}")
                if inside is not None or os.path.isdir(f"{folder}/{own}"):
                    return _package(name, f"{folder}/{own}", inside)
            for suffix in EXTENSION_SUFFIXES:
                if f"{own}{suffix}" in names:
                    return _extension(name, f"{folder}/{own}{suffix}")
            if f"{own}.py" in names:
                return _source(name, folder, own)
            if f"{own}.pyc" in names:
                return None
        return None

    def invalidate_caches(self) -> None:
        """For whoever has written modules since, see importlib.invalidate_caches."""
        self._names.clear()

    def _names_in(self, folder: str) -> "Container[str] | None":
        """None: not an ordinary folder. One that does not exist has none."""
        if folder not in self._names:
            self._names[folder] = _list(folder)
        return self._names[folder]


def _list(folder: str) -> "Container[str] | None":
    if not folder.startswith("/"):
        return None
    try:
        return frozenset(os.listdir(folder))
    except FileNotFoundError:
        return ()
    except OSError:  # an archive, for one
        return None


def _package(name: str, folder: str, names: "Container[str] | None") -> ModuleSpec | None:
    if not names or "__init__.py" not in names:
        return None
    if any(f"__init__{suffix}" in names for suffix in EXTENSION_SUFFIXES):
        return None
    spec = _source(name, folder, "__init__", is_package=True)
    spec.submodule_search_locations = [folder]
    return spec


def _source(name: str, folder: str, own: str, *, is_package: bool = False) -> ModuleSpec:
    path = f"{folder}/{own}.py"
    spec = ModuleSpec(name, _Loader(name, path), origin=path, is_package=is_package)
    spec.has_location = True
    spec.cached = f"{folder}/__pycache__/{own}{_SUFFIX}"
    return spec


def _extension(name: str, path: str) -> ModuleSpec:
    spec = ModuleSpec(name, ExtensionFileLoader(name, path), origin=path)
    spec.has_location = True
    return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: "ModuleType") -> None:
        spec = module.__spec__
        code = _read_code(self.path, spec.cached) if spec and spec.cached else None
        if code is None:
            super().exec_module(module)
        else:
            exec(code, vars(module))


def _read_code(path: str, compiled: str) -> "CodeType | None":
    """What the source at `path` was compiled to; None if that is not known for sure."""
    try:
        source = os.stat(path)
        fd = os.open(compiled, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = os.read(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)
    if data[:_HEADER_LENGTH] != _HEADER + _low(int(source.st_mtime)) + _low(source.st_size):
        return None
    code: CodeType = loads(memoryview(data)[_HEADER_LENGTH:])
    return code


def _low(number: int) -> bytes:
    return (number & 0xFFFFFFFF).to_bytes(4, "little")
