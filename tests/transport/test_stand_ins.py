"""Modules that are only pretended while a library is loaded."""

import subprocess
import sys

import pytest

from sshoq.transport.stand_ins import standing_in


def test_names_can_be_imported_within_and_nothing_stays() -> None:
    with standing_in({"no_such_module": ["thing"]}):
        from no_such_module import thing  # type: ignore[import-not-found]  # that is the point

        assert thing is None
    assert "no_such_module" not in sys.modules


def test_a_module_that_is_loaded_stays_itself() -> None:
    with standing_in({"subprocess": []}):
        assert sys.modules["subprocess"] is subprocess
    assert sys.modules["subprocess"] is subprocess


def test_an_error_within_leaves_nothing_behind() -> None:
    with pytest.raises(ZeroDivisionError), standing_in({"no_such_module": []}):
        raise ZeroDivisionError
    assert "no_such_module" not in sys.modules


def test_the_engine_loads_neither_asyncio_nor_what_verifies_chains() -> None:
    names = {"asyncio", "certifi", "service_identity", "OpenSSL"}
    program = (
        f"import sys, sshoq.transport.quic, sshoq.transport.udp; print({names} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout == "set()\n"
