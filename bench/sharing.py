"""What a command costs over a connection that is there already: a master's, shared by ControlPath.

That is what `git fetch` and ansible do many times over, so the start of a program is most of it.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from bench.measurements import MeasurementFailed, Setting, interleave, row_of, timed
from bench.report import Row
from tests.processes import wait_until
from tests.programs import Client

MASTER_PATIENCE = 20.0


@contextlib.contextmanager
def sharing(client: Client) -> Iterator[list[str]]:
    """A master of this client's; the flags with which its connection is shared."""
    control = client.directory / "control"
    flags = ["-o", f"ControlPath={control}"]
    master = client.start(flags=["-M", "-N", *flags], stdout=subprocess.DEVNULL)
    try:
        wait_until(
            lambda: control.exists() or master.poll() is not None,
            MASTER_PATIENCE,
            "the master's socket",
        )
        if master.poll() is not None:
            raise MeasurementFailed(f"the master ended with status {master.returncode}")
        yield flags
    finally:
        master.kill()
        master.communicate()


def shared_times(setting: Setting) -> Iterator[Row]:
    """`true` over a shared connection, on loopback."""

    def make() -> dict[str, list[float]]:
        with contextlib.ExitStack() as stack:
            clients = stack.enter_context(setting.pairs())
            flags = {name: stack.enter_context(sharing(client)) for name, client in clients.items()}
            samples = interleave(
                setting,
                lambda name: timed(lambda: clients[name].run("true", flags=flags[name])),
            )
            return {name: [seconds * 1000 for seconds in times] for name, times in samples.items()}

    yield row_of("true, shared connection", "ms", make)
