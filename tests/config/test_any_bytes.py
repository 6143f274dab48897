"""Whatever stands in a file or on a command line: wishes or a UsageError, soon, nothing else."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sshoq.config.keywords import KEYWORDS
from sshoq.config.resolve import Invocation
from sshoq.config.usage import UsageError
from tests.config.wishes import Machine

WORDS = st.sampled_from(
    [
        "web", "*", "!x", "yes", "no", "none", "%h", "%", "~/f", "${HOME}", "80", "1h", "a:1",
        "[::1]:2", '"', "'", "\\", "#", "=", "a,b", "+x", "-x", "^x", "/p", "u@h:1", "all",
        "final", "host", "user", "canonical", "any",
    ]
)  # fmt: skip
KEYS = st.sampled_from([*KEYWORDS, "host", "match", "bogus", ""])
LINES = st.builds(
    lambda key, words: f"{key} {' '.join(words)}".encode(), KEYS, st.lists(WORDS, max_size=5)
)
FILES = st.lists(st.one_of(LINES, st.binary(max_size=60)), max_size=12).map(b"\n".join)
# Without Match exec and Include, which may reach for the machine itself.
SAFE_FILES = FILES.filter(
    lambda data: b"exec" not in data.lower() and b"include" not in data.lower()
)
ARGUMENTS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "-p",
                "-o",
                "-L",
                "-R",
                "-D",
                "-W",
                "-J",
                "-l",
                "-t",
                "-N",
                "--",
                "web",
                "-scp",
                "--stdio",
            ]
        ),
        WORDS,
        st.text(min_size=1, max_size=12).filter(lambda word: "\0" not in word),
    ),
    max_size=6,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("machine"))


def outcome(machine: Machine, *argv: str) -> Invocation | None:
    try:
        return machine.resolve(*argv)
    except UsageError as error:
        refusal = error
    assert refusal.status == 255
    assert not any("\x1b" in line for line in refusal.lines)
    return None


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SAFE_FILES)
def test_any_bytes_as_a_file(shared: Machine, data: bytes) -> None:
    shared.write(data)
    invocation = outcome(shared, "-G", "web")
    if invocation is not None:
        assert invocation.answer is not None
        assert invocation.answer.stdout[0] == "host web"


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ARGUMENTS)
def test_any_words_as_a_command_line(shared: Machine, argv: list[str]) -> None:
    shared.write(b"")
    if any("exec" in word or "nclude" in word for word in argv):
        return
    outcome(shared, *argv)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINES, max_size=8))
def test_reading_a_file_twice_adds_nothing(shared: Machine, lines: list[bytes]) -> None:
    """The second pass finds every value set and every list complete."""
    text = b"\n".join(line for line in lines if not line.startswith((b"match", b"host ", b"send")))
    shared.write(text)
    once = outcome(shared, "-G", "web")
    shared.write(text + b"\nMatch final all\n")
    twice = outcome(shared, "-G", "web")
    assert (once is None) == (twice is None)
    if (
        once is not None
        and twice is not None
        and once.answer is not None
        and twice.answer is not None
    ):
        assert once.answer.stdout == twice.answer.stdout


def test_a_huge_file_takes_no_time(shared: Machine, tmp_path: Path) -> None:
    shared.write("LocalForward 80 h:1\nSendEnv A\n" * 20_000 + "User " + "x" * 100_000 + "\n")
    assert len(shared.resolve("web").options.local_forwards) == 1
