"""What ps shows of a process."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

NAMED = """\
import sys
from sshoq.server.libc import set_process_name
words = sys.argv[1:]
set_process_name(*words)
for place in "comm", "cmdline":
    print(ascii(open(f"/proc/self/{place}").read().rstrip("\\0\\n")))
"""

REPEATED = NAMED.replace("*words", "words[0], 'y' * 99_999")


@pytest.mark.parametrize(
    ("words", "title"),
    [
        (["name"], "name"),
        (["name", "alice at d\xfcne"], "name: alice at d\xfcne"),
        (["name", "\udcff"], "name: ?"),
    ],
)
def test_a_name_and_what_it_is_about_stand_for_the_command_line(
    words: list[str], title: str
) -> None:
    assert shown(*words) == ["name", title]


def test_no_more_is_written_than_the_command_line_had_room_for() -> None:
    """`about` makes the line longer than itself, but the program's own words are there, too."""
    short, long = shown("a-name-of-more-than-15", "x" * 3000)
    assert short == "a-name-of-more-"
    assert long == "a-name-of-more-than-15: " + "x" * 3000
    room = len("\0".join([sys.executable, "-c", REPEATED, "n"])) + 1
    assert run(REPEATED, "n")[1] == ("n: " + "y" * 99_999)[: room - 1]


def shown(*words: str) -> list[str]:
    return run(NAMED, *words)


def run(code: str, *words: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [str(ast.literal_eval(line)) for line in done.stdout.splitlines()]
