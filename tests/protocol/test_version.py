"""Version strings, the server's decision, and what a peer counts as."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.protocol.extensions import OURS, SETTING, Extension, announced_in
from sshoq.protocol.version import (
    OUR_VERSION,
    PeerTraits,
    Version,
    VersionError,
    parse_version,
    refusal_of,
)

GO = "SSH 3.0 h4sh5/sshoq 0.2.1 experimental_spec_version=alpha-00"
words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
numbers = st.integers(0, 999_999_999)


def test_the_go_programs_version() -> None:
    version = parse_version(GO)
    assert version.protocol == (3, 0)
    assert version.spec == "alpha-00"
    assert version.implementation == "h4sh5/sshoq"
    assert version.software == (0, 2, 1)
    assert str(version) == GO


@given(st.builds(Version, st.tuples(numbers, numbers), words.filter(lambda w: "_" not in w), words,
                 st.tuples(numbers, numbers, numbers)))
def test_parsing_undoes_formatting(version: Version) -> None:
    assert parse_version(str(version)) == version


@given(st.text(max_size=80))
def test_any_text_is_a_version_or_a_version_error(text: str) -> None:
    try:
        version = parse_version(text)
    except VersionError:
        return
    assert version.implementation


@pytest.mark.parametrize("text", [
    "", "curl/8", "SSH 3.0 x/y", "SSH 3 x/y 1.0.0", "SSH 3.0 x/y 0.1", "SSH 3.0 x/y 1.0.0rc1",
    "SSH 3.0 x/y 1.0.0.0", "SSH 3.x x/y 1.0.0", "SSH 3.0 x/y -1.0.0", "SSH 3.0 x/y \u0661.0.0",
    "SSH 3.0 x/y " + "1" * 5000 + ".0.0",
])
def test_texts_that_are_no_version(text: str) -> None:
    with pytest.raises(VersionError):
        parse_version(text)


@pytest.mark.parametrize("agent", [
    GO, GO + " ext=early", str(OUR_VERSION),
    "SSH 3.0_alpha-00 someone/else 1.0.0", "anything 3.0_alpha-00 x 1.0.0",
    "SSH 3.0 francoismichel/ssh3 0.1.7 experimental_spec_version=alpha-00",
    "SSH 3.0 h4sh5/sshoq 0.1.3", "SSH 3.0 h4sh5/sshoq 0.1.5",
])
def test_accepted_user_agents(agent: str) -> None:
    assert refusal_of(agent) is None


@pytest.mark.parametrize("agent", [
    "SSH 4.0 h4sh5/sshoq 0.2.1 experimental_spec_version=alpha-00", "SSH 3.0 h4sh5/sshoq 0.1.6",
    "SSH 3.0 h4sh5/sshoq 0.1.2", "SSH 3.0 francoismichel/ssh3 0.1.5", "SSH 3.1_alpha-00 x 1.0.0",
    "SSH 3.0_alpha-00 x 1.0.0 experimental_spec_version=alpha-01",
])
def test_refused_versions(agent: str) -> None:
    assert refusal_of(agent) == f"Unsupported version: {agent}"


@pytest.mark.parametrize("agent", [None, "", "curl/8", "Mozilla/5.0 (X11; Linux x86_64) Gecko"])
def test_refused_programs(agent: str | None) -> None:
    assert refusal_of(agent) == f"Unsupported user-agent: {agent or ''}"


def test_refusals_are_bounded() -> None:
    assert len(refusal_of("x" * 100_000) or "") < 1000


def test_our_version_is_one_that_go_peers_can_read() -> None:
    """Three plain integers (guard rail 16), and never the Go programs' own name."""
    words = str(OUR_VERSION).split()
    assert words[0:2] == ["SSH", "3.0"]
    assert "/" in words[2]
    assert words[2] != "h4sh5/sshoq"
    assert [number.isdigit() for number in words[3].split(".")] == [True] * 3
    assert words[4:] == ["experimental_spec_version=alpha-00"]


# --------------------------------------------------------------------------- extensions


def test_the_setting_is_none_that_others_use() -> None:
    assert (SETTING - 0x21) % 0x1F
    assert SETTING.bit_length() <= 30
    assert SETTING not in {0x01, 0x06, 0x07, 0x08, 0x33, 0x2B603742, 0xFFD277, 0x4D44, 0x2B64}


def test_bits_never_move() -> None:
    assert {extension.name: extension.value for extension in Extension} == {
        "EARLY": 1, "EOF": 2, "REPLY": 4, "ENV": 8, "SUBSYSTEM": 16, "FORWARD": 32, "AGENT": 64,
        "X11": 128, "BANNER": 256, "SIGNAL": 512, "CERTIFICATE": 1024, "SECURITY_KEY": 2048,
        "NAMED_KEY": 4096, "CHAFF": 8192, "FILES": 16384, "EOW": 32768, "HOST_KEYS": 65536,
        "KEYBOARD_INTERACTIVE": 131072,
    }


def test_unknown_bits_are_skipped() -> None:
    unknown = (1 << 62) - 1 & ~sum(Extension)
    assert announced_in({SETTING: unknown | 3}) == Extension.EARLY | Extension.EOF
    assert announced_in({SETTING: 0}) == Extension(0)
    assert announced_in({0x33: 1}) is None


def test_an_extension_counts_when_both_announced_it() -> None:
    traits = PeerTraits(Extension.EOF | Extension.X11, OURS & ~Extension.X11)
    assert traits.supports(Extension.EOF)
    assert not traits.supports(Extension.X11)
    assert not traits.supports(Extension.EOF | Extension.X11)
    assert not traits.supports(Extension.ENV)
    assert traits.supports(Extension(0))


def test_without_the_setting_a_peer_counts_as_go() -> None:
    assert PeerTraits().is_go
    assert not PeerTraits(Extension(0)).is_go
    assert not PeerTraits(None, OURS).supports(Extension.EARLY)


def test_traits_follow_what_is_learnt() -> None:
    traits = PeerTraits()
    seen = [traits.knows_fork_channels]
    traits.version = parse_version(GO)
    seen.append(traits.knows_fork_channels)
    traits.learn(Extension.REPLY, OURS)
    seen += [traits.is_go, traits.supports(Extension.REPLY)]
    assert seen == [False, True, False, True]
