"""`typing.NamedTuple` for classes that a client makes at each of its starts.

The library's writes a function for every class and compiles it, which took a tenth of a start;
here one function serves all of them. To a type checker it is the library's, and apart from the text
of errors it behaves the same. Knows nothing of what the classes are for.
"""

import sys

TYPE_CHECKING = False  # what type checkers take for true; "typing" itself costs 3 ms
if TYPE_CHECKING or sys.version_info >= (3, 14):  # where a class's annotations are made later
    from typing import NamedTuple as NamedTuple
else:
    try:
        from _collections import _tuplegetter as _getter
    except ImportError:
        from _operator import itemgetter

        def _getter(index, doc):
            return property(itemgetter(index), doc=doc)

    class _Values(tuple):
        """What every such class can do. `_fields` are its names, in order."""

        __slots__ = ()
        _fields = ()
        _field_defaults = {}  # noqa: RUF012  # a class's own takes its place

        def __new__(cls, *values, **named):
            if named or len(values) != len(cls._fields):
                values = cls._complete(values, named)
            return tuple.__new__(cls, values)

        @classmethod
        def _complete(cls, values, named):
            """All values in order, of those given in order and by name and the defaults."""
            fields = cls._fields
            if len(values) > len(fields):
                raise TypeError(f"{cls.__name__} has {len(fields)} fields, not {len(values)}")
            whole = [*values]
            for name in fields[len(values) :]:
                if name in named:
                    whole.append(named.pop(name))
                elif name in cls._field_defaults:
                    whole.append(cls._field_defaults[name])
                else:
                    raise TypeError(f"{cls.__name__}: {name} is missing")
            if named:
                raise TypeError(f"{cls.__name__}: {next(iter(named))} is no field, or given twice")
            return whole

        @classmethod
        def _make(cls, iterable):
            return cls(*iterable)

        def _replace(self, /, **named):
            if unknown := named.keys() - set(self._fields):
                raise TypeError(f"{type(self).__name__}: {min(unknown)} is no field")
            return self._make(map(named.get, self._fields, self))

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            fields = zip(self._fields, self, strict=True)
            return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in fields)})"

        def __getnewargs__(self):
            return tuple(self)

    class _Declaration(type):
        """Turns the body of a class into one with `_Values` below it, and is gone."""

        def __new__(meta, name, bases, namespace):
            if not bases:
                return super().__new__(meta, name, bases, namespace)
            fields = tuple(namespace.get("__annotations__", ()))
            defaults = {field: namespace[field] for field in fields if field in namespace}
            for index, field in enumerate(fields):
                namespace[field] = _getter(index, None)
            namespace.update(
                __slots__=(), __match_args__=fields, _fields=fields, _field_defaults=defaults
            )
            return type(name, (_Values,), namespace)

    class NamedTuple(metaclass=_Declaration):
        """The base to name in a declaration; no class has it."""
