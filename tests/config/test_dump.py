"""The forms of -G that the comparison with ssh cannot reach."""

import pytest

from sshoq.config.dump import _escape
from tests.config.wishes import Machine


def test_own_keywords_are_printed_when_set(machine: Machine) -> None:
    plain = machine.dump("web")
    names = {line.split()[0] for line in plain}
    assert not names & {
        "transport", "quicport", "urlpath", "udpproxyjump", "servercertificate",
        "congestioncontrol",
    }  # fmt: skip
    machine.write(
        "Transport quic\nQUICPort 4443\nURLPath /s\nUDPProxyJump j\nServerCertificate c\n"
        "CongestionControl cubic\n"
    )
    assert set(machine.dump("web")) - set(plain) == {
        "transport quic", "quicport 4443", "urlpath /s", "udpproxyjump j", "servercertificate c",
        "congestioncontrol cubic",
    }  # fmt: skip


def test_the_order_is_openssh_s(machine: Machine) -> None:
    names = [line.split()[0] for line in machine.dump("web")]
    assert names[:5] == ["host", "user", "hostname", "port", "addressfamily"]
    assert names[-1] == "syslogfacility"
    assert names.index("warnweakcrypto") == names.index("enableescapecommandline") + 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["-L", "udp:53:h:53"], "localforward udp:53 [h]:53"),
        (["-L", "80@127.0.0.1@81"], "localforward [127.0.0.1]:80 [127.0.0.1]:81"),
        (["-o", "ObscureKeystrokeTiming=interval:30"], "obscurekeystroketiming interval:30"),
        (["-o", "ObscureKeystrokeTiming=no"], "obscurekeystroketiming no"),
        (["-o", "Tag=x"], "tag x"),
        (["-o", "ChannelTimeout=session=1m"], "channeltimeout session=1m"),
        (["-o", "RevokedHostKeys=/a /b"], "revokedhostkeys /a /b"),
        (["-o", "WarnWeakCrypto=no"], "warnweakcrypto false"),
        (["-o", "IPQoS=17 none"], "ipqos 0x11 none"),
        (["-J", "a,u@1.2.3.4:5"], "proxyjump a,u@[1.2.3.4]:5"),
        (["-v"], "loglevel DEBUG"),
        (["-vv"], "loglevel DEBUG2"),
        (["-q"], "loglevel SILENT"),
    ],
)
def test_forms(machine: Machine, words: list[str], line: str) -> None:
    assert line in machine.dump(*words, "web")


@pytest.mark.parametrize(
    ("character", "shown"),
    [(None, "none"), (0x7E, "~"), (1, "\\^A"), (0x7F, "\\^?"), (0x20, "\\040"), (0x5C, "\\\\"),
     (9, "\\011"), (0xE4, "\\M-d"), (0x81, "\\M^A"), (0xA0, "\\240")],
)  # fmt: skip
def test_the_escape_character_is_made_visible(character: int | None, shown: str) -> None:
    assert _escape(character) == shown
