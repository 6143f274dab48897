"""`sshoq config`: one line changes, or nothing."""

import pytest

from sshoq.config.edit import run_edit
from tests.config.wishes import Machine

CONFIG = """\
# mine
Host web  # the web server
\tPort 2222
\tUser bob

Host *
    Compression yes
"""


@pytest.fixture
def config(machine: Machine) -> Machine:
    machine.write(CONFIG)
    return machine


def edit(machine: Machine, *words: str) -> int:
    return run_edit(words, machine.surroundings())


def text(machine: Machine, name: str = "config") -> str:
    return (machine.home / ".ssh" / name).read_text()


def test_get_prints_what_stands_there(config: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    config.write("Host web\n Port=2222\n IdentityFile a\n identityfile b\nHost db\n Port 5\n")
    assert edit(config, "get", "web", "IdentityFile") == 0
    assert edit(config, "get", "web", "port") == 0
    assert capsys.readouterr().out == "a\nb\n2222\n"
    assert edit(config, "get", "web", "User") == 1
    assert edit(config, "get", "nobody", "User") == 1


def test_set_changes_one_line(machine: Machine) -> None:
    machine.write(CONFIG.replace("  # the web server", ""))
    assert edit(machine, "set", "web", "port", "99") == 0
    assert text(machine) == CONFIG.replace("  # the web server", "").replace(
        "\tPort 2222", "\tPort 99"
    )


def test_set_adds_a_line_to_its_block(machine: Machine) -> None:
    machine.write("Host web\n Port 1\n\nHost db\n Port 2\n")
    assert edit(machine, "set", "web", "User", "eve") == 0
    assert text(machine) == "Host web\n Port 1\n User eve\n\nHost db\n Port 2\n"


def test_a_new_block_stands_where_it_counts(machine: Machine) -> None:
    machine.write("Host web\n Port 1\n\nHost *\n Port 5\n")
    assert edit(machine, "set", "new", "Port", "7") == 0
    assert machine.resolve("new").options.port == 7
    assert machine.resolve("web").options.port == 1


@pytest.mark.parametrize(
    "before",
    [
        "Include other\nUser bob\n{}Host *\n Port 5\n",
        "Include other\n\n{}# for all\nHost *\n Port 5\n",
        "Host web\n Port 1\nMatch user x\n Port 2\n\n{}Host *\n Port 5\n",
    ],
)
def test_a_new_block_takes_no_line_of_others(machine: Machine, before: str) -> None:
    machine.write(before.format(""))
    assert edit(machine, "set", "new", "Port", "7") == 0
    assert text(machine) == before.format("Host new\n    Port 7\n\n")
    assert edit(machine, "unset", "new", "Port") == 0
    assert text(machine) == before.format("")


def test_a_new_block_stands_apart(machine: Machine) -> None:
    machine.write("Include other\n")
    assert edit(machine, "set", "new", "Port", "7") == 0
    assert text(machine) == "Include other\n\nHost new\n    Port 7\n"


def test_the_file_is_made_when_there_is_none(machine: Machine) -> None:
    assert edit(machine, "set", "web", "Port", "7") == 0
    path = machine.home / ".ssh/config"
    assert path.stat().st_mode & 0o777 == 0o600
    assert machine.resolve("web").options.port == 7


def test_own_keywords_go_to_the_own_file(machine: Machine) -> None:
    assert edit(machine, "set", "web", "urlpath", "/secret") == 0
    assert "URLPath /secret" in text(machine, "sshoq_config")
    assert not (machine.home / ".ssh/config").exists()
    assert machine.resolve("web").options.url_path == "/secret"


def test_unset_takes_the_line_away(machine: Machine) -> None:
    machine.write("Host web\n Port 1\n User u\n")
    assert edit(machine, "unset", "web", "port") == 0
    assert text(machine) == "Host web\n User u\n"
    assert edit(machine, "unset", "web", "port") == 1


@pytest.mark.parametrize(
    "others", ["", "User u\n", "Host a\n    Port 1\n", "# why\nInclude other\n\n# b\nHost b\n"]
)
def test_a_block_of_ours_goes_with_its_last_line(machine: Machine, others: str) -> None:
    machine.write(others)
    for words in ("Port", "7"), ("User", "me"):
        assert edit(machine, "set", "new", *words) == 0
    assert edit(machine, "unset", "new", "Port") == 0
    assert machine.resolve("new").options.user == ("u" if others.startswith("User") else "me")
    assert edit(machine, "unset", "new", "User") == 0
    assert text(machine) == others


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("# mine\nHost web\n    Port 7\n", "# mine\nHost web\n"),
        ("Host web\n    # mine\n    Port 7\n", "Host web\n    # mine\n"),
        ("Host web\n    Port 7\n    # mine\n", "Host web\n    # mine\n"),
        ("Host web\n    Port 7\n\n    User u\n", "Host web\n\n    User u\n"),
        ("Host web\n    Port 7\n\n# of b\nHost b\n", "# of b\nHost b\n"),
        ("Host web\n    Port 7\nHost b\n", "Host b\n"),
        ("host web\n    Port 7\n", "host web\n"),
        ("Host web\n Port 7\n", "Host web\n"),
    ],
)
def test_a_block_that_may_be_the_users_stays(machine: Machine, before: str, after: str) -> None:
    machine.write(before)
    assert edit(machine, "unset", "web", "Port") == 0
    assert text(machine) == after


def test_a_link_stays_a_link_and_a_mode_stays(machine: Machine) -> None:
    real = machine.write("Host web\n Port 1\n", "real")
    real.chmod(0o640)
    (machine.home / ".ssh/config").symlink_to(real)
    assert edit(machine, "set", "web", "Port", "2") == 0
    assert (machine.home / ".ssh/config").is_symlink()
    assert (real.read_text(), real.stat().st_mode & 0o777) == ("Host web\n Port 2\n", 0o640)


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("Host web\n Port=1\n", "written in a way"),
        ("Host web\n Port = 1\n", "written in a way"),
        ("Host web\n Port 1 # why\n", "comment"),
        ("Host web\n Port 1\r\n", "line ends"),
        ("Host web\n Port 1\nMatch user x\n Port 2\n", "a Match follows"),
        ("Host web\n Port 1\nHost web\n User x\n", "2 blocks"),
    ],
)
def test_what_sshconf_would_damage_is_refused(
    machine: Machine, before: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = machine.write(before)
    assert edit(machine, "set", "web", "Port", "5") == 255
    assert reason in capsys.readouterr().err
    assert path.read_bytes() == before.encode()


def test_values_that_ssh_would_refuse_are_not_written(
    config: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write("Host web\n Port 1\n")
    assert edit(config, "set", "web", "Port", "x") == 255
    assert "Bad port 'x'." in capsys.readouterr().err
    assert text(config) == "Host web\n Port 1\n"
    assert sorted(path.name for path in (config.home / ".ssh").iterdir()) == ["config"]


def test_several_lines_are_not_replaced_by_one(machine: Machine) -> None:
    machine.write("Host web\n IdentityFile a\n IdentityFile b\n")
    assert edit(machine, "set", "web", "IdentityFile", "c") == 255
    assert edit(machine, "unset", "web", "IdentityFile") == 0
    assert text(machine) == "Host web\n"


@pytest.mark.parametrize(
    "words",
    [("set", "web", "Port"), ("get", "web", "Port", "1"), ("set", "web", "Bogus", "1"),
     ("set", "web", "User", "a\nb"), ("get", "web"), ("set", " ", "Port", "1")],
)  # fmt: skip
def test_words_that_make_no_edit(config: Machine, words: tuple[str, ...]) -> None:
    assert edit(config, *words) == 255
    assert text(config) == CONFIG


def test_a_file_that_cannot_be_read(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    (machine.home / ".ssh/config").mkdir()
    assert edit(machine, "get", "web", "Port") == 255
    assert "Is a directory" in capsys.readouterr().err
