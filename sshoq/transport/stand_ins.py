"""Stand-ins for modules that a library imports at its start and that we never have it use.

aioquic can verify certificate chains, and loads three packages for that; who a server is, is
decided elsewhere here (with known_hosts first of all), so a client need not wait for them.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def standing_in(modules: Mapping[str, Sequence[str]]) -> Iterator[None]:
    """Within, each module that is not yet loaded is an empty one, with these names in it as
    None."""
    stand_ins = {name: ModuleType(name) for name in modules if name not in sys.modules}
    for name, module in stand_ins.items():
        vars(module).update(dict.fromkeys(modules[name]))
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]
