"""Files: their order, their owners, Host blocks and Include."""

import os
from pathlib import Path

import pytest

from sshoq.config.reader import find_files
from tests.config.wishes import Machine


def test_the_first_file_that_says_something_wins(machine: Machine) -> None:
    machine.write("User own\n", "sshoq_config")
    machine.write("User user\nPort 1\n")
    (machine.system / "sshoq_config").write_text("Port 2\nCompression yes\n")
    (machine.system / "ssh_config").write_text("Compression no\nBatchMode yes\n")
    options = machine.resolve("web").options
    assert (options.user, options.port, options.compression, options.batch_mode) == (
        "own", 1, "yes", True,
    )  # fmt: skip


def test_a_named_file_is_the_only_one(machine: Machine, tmp_path: Path) -> None:
    machine.write("User user\n")
    (tmp_path / "mine").write_text("Port 3\n")
    options = machine.resolve("-F", str(tmp_path / "mine"), "web").options
    assert (options.user, options.port) == ("alice", 3)
    assert machine.resolve("-F", "none", "web").options.user == "alice"
    assert machine.refusal("-F", str(tmp_path / "nope"), "web") == (
        f"Can't open user config file {tmp_path}/nope: No such file or directory",
    )


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_nobody_else_may_write_the_file(machine: Machine, mode: int) -> None:
    path = machine.write("User user\n")
    path.chmod(mode)
    assert machine.refusal("web") == (f"Bad owner or permissions on {path}",)
    assert machine.resolve("-F", str(path), "web").options.user == "user"


def test_a_group_that_is_the_owner_alone_may_write_the_file(machine: Machine) -> None:
    machine.only_owner_in_group = True
    path = machine.write("User user\n")
    path.chmod(0o664)
    assert machine.resolve("web").options.user == "user"
    path.chmod(0o666)
    assert machine.refusal("web") == (f"Bad owner or permissions on {path}",)


def test_nobody_else_may_own_the_file(machine: Machine) -> None:
    machine.only_owner_in_group = True
    path = machine.write("User user\n")
    machine.uid = os.getuid() + 1
    if os.getuid() == 0:
        os.chown(path, 12345, 12345)
    assert machine.refusal("web") == (f"Bad owner or permissions on {path}",)


def test_every_mistake_is_told(machine: Machine) -> None:
    path = machine.write("Bogus x\nPort x\nUser a b\nHost\n")
    assert machine.refusal("web") == (
        f"{path}: line 1: Bad configuration option: bogus",
        f"{path} line 2: Bad port 'x'.",
        f"{path} line 3: keyword user extra arguments at end of line",
        f'{path} line 4: no argument after keyword "host"',
        f"{path}: terminating, 4 bad configuration options",
    )


def test_mistakes_in_other_blocks_count(machine: Machine) -> None:
    machine.write("Host db\n Port x\n")
    assert len(machine.refusal("web")) == 2


def test_a_quiet_run_says_nothing_about_mistakes(machine: Machine) -> None:
    machine.write("Bogus x\n")
    assert machine.refusal("-q", "web") == ()


def test_what_reaches_the_terminal_is_printable(machine: Machine) -> None:
    path = machine.write(b"Bo\x1b\xffgus\\ x\n")
    assert (
        machine.refusal("web")[0]
        == f"{path}: line 1: Bad configuration option: bo\\033\\377gus\\\\"
    )


@pytest.mark.parametrize(
    ("block", "counts"),
    [
        ("Host web", True),
        ("Host db w*", True),
        ("Host *", True),
        ("Host WEB", False),
        ("Host web,db", False),
        ("Host !web *", False),
        ("Host * !web", False),
        ("Host !db", False),
    ],
)
def test_host_lines(machine: Machine, block: str, counts: bool) -> None:
    machine.write(f"{block}\n Port 9\n")
    assert (machine.resolve("web").options.port == 9) == counts


def test_includes_are_found_sorted_and_once_each(machine: Machine) -> None:
    (machine.home / ".ssh/d").mkdir()
    for name in ("b", "a", ".hidden"):
        machine.write(f"IdentityFile {name}\n", f"d/{name}")
    machine.write("Include d/* nothing/* d/nope\n")
    assert machine.resolve("web").options.identity_files == ("a", "b")


def test_includes_expand_tokens_and_variables(machine: Machine) -> None:
    machine.environ["PART"] = "mo"
    machine.write("User more\n", "more-web")
    machine.write("Include ~/.ssh/${PART}re-%n\n")
    assert machine.resolve("web").options.user == "more"
    path = machine.write("Include ${NONE}\n")
    assert f"{path} line 1: Unable to expand include path ${{NONE}}." in machine.refusal("web")


def test_an_include_ends_its_own_blocks(machine: Machine) -> None:
    machine.write("Host db\n", "more")
    machine.write("Host web\nInclude more\nUser still\n")
    assert machine.resolve("web").options.user == "still"


def test_nothing_matches_in_a_file_that_a_dead_block_includes(machine: Machine) -> None:
    machine.write("User x\nHost *\n User y\nMatch all\n User z\n", "more")
    machine.write("Host db\nInclude more\n")
    assert machine.resolve("web").options.user == "alice"


def test_a_bad_include_ends_at_once(machine: Machine) -> None:
    bad = machine.write("Bogus x\n", "more")
    machine.write("Include more\nPort x\n")
    assert machine.refusal("web")[-1] == f"{bad}: terminating, 1 bad configuration options"


def test_includes_have_bounds(machine: Machine) -> None:
    machine.write("Include config\n")
    assert machine.refusal("web") == ("Too many recursive configuration includes",)
    for depth in range(15):
        machine.write(f"Include {depth + 1} {depth + 1} {depth + 1}\n", str(depth))
    machine.write("", "15")
    machine.write("Include 0\n")
    assert machine.refusal("web") == ("Too many configuration includes",)


def test_a_system_file_includes_from_etc_only(machine: Machine) -> None:
    path = machine.system / "ssh_config"
    path.write_text("Include ~/x\n")
    assert machine.refusal("web")[0] == f"{path} line 1: bad include path ~/x."


def test_a_directory_is_an_empty_file(machine: Machine) -> None:
    (machine.home / ".ssh/d").mkdir()
    machine.write("Include d\nUser x\n")
    assert machine.resolve("web").options.user == "x"


def test_unknown_keywords_can_be_passed_over(machine: Machine) -> None:
    machine.write('IgnoreUnknown Use*,foo\nUseKeychain yes\nFOO "a b" c\nUser x\n')
    assert machine.resolve("web").options.user == "x"
    machine.write('IgnoreUnknown foo\nfoo "a\n')
    assert "invalid quotes" in machine.refusal("web")[0]


def test_old_keywords_are_passed_over_with_a_word_or_without(machine: Machine) -> None:
    path = machine.write("Protocol 2\nCipher x\nRSAAuthentication yes\n")
    assert machine.resolve("web").notes == (
        f'{path} line 3: Unsupported option "rsaauthentication"',
    )


def test_debugging_tells_what_is_read(machine: Machine) -> None:
    path = machine.write("Host web\nUser x\n")
    notes = machine.resolve("-v", "web").notes
    assert f"debug1: Reading configuration data {path}" in notes
    assert f"debug1: {path} line 1: Applying options for web" in notes


def test_find_files_takes_shell_patterns(tmp_path: Path) -> None:
    for name in ("a1", "a2", "b1", ".a1"):
        (tmp_path / name).touch()
    base = str(tmp_path)
    assert find_files(f"{base}/a?") == [f"{base}/a1", f"{base}/a2"]
    assert find_files(f"{base}/.a*") == [f"{base}/.a1"]
    assert find_files(f"{base}/[ab]1") == [f"{base}/a1", f"{base}/b1"]
    assert find_files(f"{base}/*/x") == []
    assert find_files(f"{base}/nope") == []
