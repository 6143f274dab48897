"""`dataclasses`, for the import of a library that makes fifty and needs ten.

Making one costs 0.3 ms, and the module as much as fifteen of them. Here such a class sets its
fields by itself until it has been called often enough to be worth an `__init__` of its own, and
turns into a real dataclass when anything else of one is asked of it. Only the plainest use is known
here; all others go to the real module at once.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_ATTRIBUTES = ("__dataclass_fields__", "__dataclass_params__", "__match_args__")
_TIMES = 30
"""To write an `__init__` and compile it takes as long as so many calls without."""

_NOT_FIELDS = ("ClassVar", "InitVar", "KW_ONLY")


@contextmanager
def hasty_dataclasses() -> Iterator[None]:
    """Within, `dataclasses` is this; unless it has been loaded anyway."""
    if "dataclasses" in sys.modules:
        yield
        return
    sys.modules["dataclasses"] = _HastyModule("dataclasses")
    try:
        yield
    finally:
        _make_way()


def _make_way() -> None:
    if isinstance(sys.modules.get("dataclasses"), _HastyModule):
        del sys.modules["dataclasses"]


def _real_module() -> ModuleType:
    """Once somebody needs it, it is there for everybody, and haste has no point any more."""
    _make_way()
    import dataclasses

    return dataclasses


class _HastyModule(ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        vars(self).update(dataclass=dataclass, field=field)

    def __getattr__(self, name: str) -> object:
        if name == "__path__":  # every `from … import` looks whether that is a package
            raise AttributeError(name)
        return getattr(_real_module(), name)


class _Factory:
    """What stands in the class for `field(default_factory=…)`."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], object]) -> None:
        self.make = make


def field(**options: Any) -> Any:
    if options.keys() == {"default_factory"}:
        return _Factory(options["default_factory"])
    return _real_module().field(**options)


def dataclass(cls: Any = None, /, **options: Any) -> Any:
    if cls is None or options or not _is_plain(cls):
        return _real_module().dataclass(cls, **options)
    _Haste(cls).begin()
    return cls


def _is_plain(cls: type) -> bool:
    """Whether all there is to it are fields, some with defaults."""
    if hasattr(cls, "__dataclass_fields__") or hasattr(cls, "__post_init__"):
        return False
    if any(type(value).__module__ == "dataclasses" for value in vars(cls).values()):
        return False
    annotations = [str(annotation) for annotation in cls.__annotations__.values()]
    return not any(word in text for text in annotations for word in _NOT_FIELDS)


class _Haste:
    """A class on its way to become a dataclass."""

    def __init__(self, cls: Any) -> None:
        self._class = cls
        self._factories = {n: v for n, v in vars(cls).items() if isinstance(v, _Factory)}
        self._made: dict[str, object] = {}

    def begin(self) -> None:
        for name in self._factories:
            delattr(self._class, name)
        made = {**self._methods(), **{name: _Completing(name, self) for name in _ATTRIBUTES}}
        self._made = {name: value for name, value in made.items() if name not in vars(self._class)}
        for name, value in self._made.items():
            setattr(self._class, name, value)

    def complete(self) -> None:
        """Make it what it is meant to be. The objects that there are already need nothing more."""
        if not self._made:
            return
        for name in self._made:
            delattr(self._class, name)
        self._made = {}
        module = _real_module()
        for name, factory in self._factories.items():
            setattr(self._class, name, module.field(default_factory=factory.make))
        module.dataclass(self._class)

    def _methods(self) -> dict[str, object]:
        cls = self._class
        fields = _Fields(cls, self._factories)

        def initialize(instance: Any, *values: Any, **named: Any) -> None:
            if not fields.set_in(instance, values, named):
                cls.__init__ = _initializer(cls, self._factories)
                cls.__init__(instance, *values, **named)

        def represent(instance: Any) -> str:
            self.complete()
            return repr(instance)

        def compare(instance: Any, other: object) -> Any:
            self.complete()
            return cls.__eq__(instance, other)

        # An object that can be equal to another one, and can change, has no hash.
        return {
            "__init__": initialize, "__repr__": represent, "__eq__": compare, "__hash__": None
        }  # fmt: skip


class _Fields:
    """Gives an object its fields without code of its own, some times."""

    def __init__(self, cls: type, factories: Mapping[str, _Factory]) -> None:
        self._names = tuple(cls.__annotations__)
        self._factories = factories
        self._defaults = {name: vars(cls)[name] for name in self._names if name in vars(cls)}
        self._times = 0

    def set_in(self, instance: object, values: Sequence[object], named: dict[str, object]) -> bool:
        """False: that was often enough, or there is something wrong with what was given."""
        self._times += 1
        given = dict(zip(self._names, values, strict=False), **named)
        if self._times > _TIMES or len(given) != len(values) + len(named):
            return False
        for name in self._names:
            if name in given:
                setattr(instance, name, given.pop(name))
            elif name in self._factories:
                setattr(instance, name, self._factories[name].make())
            elif name in self._defaults:
                setattr(instance, name, self._defaults[name])
            else:
                return False
        return not given


class _Completing:
    """An attribute that only a real dataclass has."""

    __slots__ = ("_haste", "_name")

    def __init__(self, name: str, haste: _Haste) -> None:
        self._name = name
        self._haste = haste

    def __get__(self, instance: object, owner: type) -> object:
        self._haste.complete()
        return getattr(owner, self._name)


def _initializer(cls: type, factories: Mapping[str, _Factory]) -> Callable[..., None]:
    """The `__init__` that sets every field, written out as `dataclasses` does it."""
    scope: dict[str, Any] = {"missing": object()}
    parameters = ["self"]
    lines = []
    for name in cls.__annotations__:
        value = name
        if name in factories:
            scope[f"make_{name}"] = factories[name].make
            parameters.append(f"{name}=missing")
            value = f"make_{name}() if {name} is missing else {name}"
        elif name in vars(cls):
            scope[f"default_{name}"] = vars(cls)[name]
            parameters.append(f"{name}=default_{name}")
        else:
            parameters.append(name)
        lines.append(f"    self.{name} = {value}")
    exec(f"def __init__({', '.join(parameters)}):\n" + "\n".join(lines or ["    pass"]), scope)
    made: Callable[..., None] = scope["__init__"]
    return made
