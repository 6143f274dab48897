"""The router's connections with itself, before it serves others."""

import pytest

from tests.processes import run_python

START = """\
import os, sys
from sshoq.server import network, rehearsal

def descriptors():
    return len(os.listdir("/proc/self/fd"))

def has_children():
    try:
        return os.waitpid(-1, os.WNOHANG) is not None
    except ChildProcessError:
        return False

before = descriptors()
"""


def run(code: str) -> tuple[str, str]:
    """In an interpreter of its own, as a router's is: what it prints, and its complaints."""
    return run_python(START + code)


def test_it_leaves_nothing_but_memory() -> None:
    code = """\
rehearsal.rehearse()
print(descriptors() - before, has_children(), sys.getprofile())
"""
    assert run(code) == ("0 False None", "")


def test_network_processes_load_no_more_code_after_it() -> None:
    """A confined process could not: it opens no file."""
    code = """\
rehearsal.rehearse()
known = set(sys.modules)
rehearsal.rehearse()
print(sorted(set(sys.modules) - known))
"""
    assert run(code) == ("[]", "")


FAILING = """\
try:
    rehearsal.rehearse()
except rehearsal.RehearsalFailed as error:
    print(error)
print(descriptors() - before, has_children())
"""


@pytest.mark.parametrize("does", ["pass", "await rehearsal.asyncio.sleep(60)"])
def test_a_client_that_never_comes_is_told_in_time(does: str) -> None:
    code = f"""\
async def play(stages):
    {does}
rehearsal._PATIENCE = 0.2
rehearsal._play_the_others = play
"""
    said, _ = run(code + FAILING)
    assert said == "no client of our own\n0 False"


def test_a_fault_of_the_network_process_is_told() -> None:
    code = """\
def stumble(self, stream_id, request):
    raise RuntimeError("a fault of ours")
network.NetworkProcess.request_received = stumble
"""
    said, complaints = run(code + FAILING)
    assert said == "a connection with ourselves has failed\n0 False"
    assert "RuntimeError: a fault of ours" in complaints
