"""Lists of algorithm names."""

import pytest

from sshoq.config import algorithms
from sshoq.config.algorithms import AlgorithmError, assemble

DEFAULT = ("a1", "b1", "c1")
EVERY = ("a1", "a2", "b1", "c1", "z9")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "a1,b1,c1"),
        ("z9", "z9"),
        ("z9,a1,z9", "z9,a1"),
        ("+z9", "a1,b1,c1,z9"),
        ("+a1", "a1,b1,c1"),
        ("^c1,z9", "c1,z9,a1,b1"),
        ("-b*,nothing", "a1,c1"),
        ("a*", "a1,a2"),
        ("-", "a1,b1,c1"),
    ],
)
def test_lists_edit_the_default(text: str | None, expected: str) -> None:
    assert assemble(text, DEFAULT, EVERY) == expected


@pytest.mark.parametrize("text", ["-*", ",", "nothing", "!a1"])
def test_an_empty_list_ends_the_run(text: str) -> None:
    with pytest.raises(AlgorithmError, match="invalid argument"):
        assemble(text, DEFAULT, EVERY)


def test_names_are_checked_up_to_an_empty_entry() -> None:
    assert algorithms.unknown_cipher("aes128-ctr") is None
    assert algorithms.unknown_cipher("aes128-ctr,nope") == "nope"
    assert algorithms.unknown_cipher("aes128-ctr,,nope") is None
    assert algorithms.unknown_cipher("") == ""


def test_key_types_may_have_wildcards() -> None:
    assert algorithms.unknown_key("ssh-*,rsa-sha2-256") is None
    assert algorithms.unknown_key("ssh-mldsa44-ed25519@openssh.com") is None
    assert algorithms.unknown_key("dsa*") == "dsa*"


def test_what_is_taken_away_need_not_exist() -> None:
    assert algorithms.list_error("-nope", algorithms.unknown_mac) is None
    assert algorithms.list_error("+nope", algorithms.unknown_mac) == "nope"


def test_defaults_are_names_that_exist() -> None:
    assert set(algorithms.DEFAULT_CIPHERS) <= set(algorithms.CIPHERS)
    assert set(algorithms.DEFAULT_MACS) <= set(algorithms.MACS)
    assert set(algorithms.DEFAULT_KEX) <= set(algorithms.KEX)
    assert set(algorithms.DEFAULT_KEYS) <= set(algorithms.SIGNATURE_KEYS)
    assert algorithms.DEFAULT_KEX[0] == "mlkem768x25519-sha256"


def test_queries() -> None:
    help_lines = algorithms.answer_query("help")
    assert help_lines is not None
    for query in help_lines:
        assert algorithms.answer_query(query)
    assert algorithms.answer_query("CIPHERS") == algorithms.CIPHERS
    assert algorithms.answer_query("protocol-version") == ("2",)
    assert algorithms.answer_query("nope") is None
