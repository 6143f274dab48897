"""`logging`, for libraries that make a logger when they are imported and have nothing to say.

The module is loaded when a logger has a warning to tell, or when anybody asks it for more than the
names here; see late_modules.py. Until then nobody can have set a level or a handler, so what is
below a warning would be told to nobody.
"""

import sys
from typing import Any

from sshoq.transport.late_modules import LateModule, load, put_off

_HERE = __name__
_DEBUG, _WARNING = 10, 30


def put_off_logging() -> None:
    """Unless it is loaded."""
    put_off(
        {
            "logging": {
                "DEBUG": _DEBUG,
                "Logger": f"{_HERE}:LateLogger",
                "LoggerAdapter": f"{_HERE}:LateAdapter",
                "getLogger": f"{_HERE}:LateLogger",
            }
        }
    )


def _is_late() -> bool:
    return type(sys.modules.get("logging")) is LateModule


class LateLogger:
    """The logger of that name: `logging.getLogger`, and `logging.Logger` in annotations."""

    def __init__(self, name: str | None = None) -> None:
        self._name = name

    def isEnabledFor(self, level: int) -> bool:
        if _is_late():
            return level >= _WARNING
        return bool(self._real().isEnabledFor(level))

    def debug(self, *message: object, **named: object) -> None:
        if not _is_late():
            self._real().debug(*message, **named)

    def info(self, *message: object, **named: object) -> None:
        if not _is_late():
            self._real().info(*message, **named)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real(), name)

    def _real(self) -> Any:
        module = sys.modules["logging"]
        load(module)
        return module.getLogger(self._name)


class LateAdapter:
    """`logging.LoggerAdapter`, to make classes of: the logger's own methods, without `process`."""

    def __init__(self, logger: object, extra: object = None) -> None:
        self.logger = logger
        self.extra = extra

    def __getattr__(self, name: str) -> object:
        return getattr(self.logger, name)
