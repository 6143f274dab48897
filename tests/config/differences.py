"""The written table of differences between Debian's OpenSSH 9.2 and 10.5, which sshoq follows.

Each row says what differs and how the 9.2 answer is turned into the one expected here, or that
cases which touch it are left to the unit tests. The comparison applies all rows; nothing else is
forgiven.
"""

import re
from collections.abc import Callable

from sshoq.config.keywords import QUIC, ROWS
from tests.config.oracle import Case, Outcome

OLD_IDENTITIES = (
    "id_rsa",
    "id_ecdsa",
    "id_ecdsa_sk",
    "id_ed25519",
    "id_ed25519_sk",
    "id_xmss",
    "id_dsa",
)
NEW_IDENTITIES = (*OLD_IDENTITIES[:-2], "id_mldsa44_ed25519")
OLD_KEX = "sntrup761x25519-sha512,"
NEW_KEX = "mlkem768x25519-sha256,sntrup761x25519-sha512,"
OLD_CIPHERS = "aes128-ctr,aes192-ctr,aes256-ctr,aes128-gcm@openssh.com,aes256-gcm@openssh.com"
NEW_CIPHERS = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,aes128-ctr,aes192-ctr,aes256-ctr"


def _text(case: Case) -> str:
    return "\n".join([*case["argv"], *case["files"].values()]).lower()


def _identity_lines(names: tuple[str, ...]) -> str:
    return "".join(f"identityfile ~/.ssh/{name}\n" for name in names)


def _default_identities(case: Case, out: str) -> str:
    return out.replace(_identity_lines(OLD_IDENTITIES), _identity_lines(NEW_IDENTITIES))


def _new_lines(case: Case, out: str) -> str:
    """10.x prints three more lines."""
    if not out.startswith("host "):
        return out
    after = {
        "enableescapecommandline": "warnweakcrypto true",
        "requiredrsasize": "obscurekeystroketiming yes",
        "logverbose": "channeltimeout none",
    }
    lines = []
    for line in out.split("\n"):
        lines.append(line)
        following = after.get(line.partition(" ")[0])
        if following is not None:
            lines.append(following)
    return "\n".join(lines)


def _algorithm_orders(case: Case, out: str) -> str:
    """10.x prefers ML-KEM, and GCM to CTR."""
    text = _text(case)
    if "kexalgorithms" not in text:
        out = out.replace(f"\nkexalgorithms {OLD_KEX}", f"\nkexalgorithms {NEW_KEX}")
    return out.replace(OLD_CIPHERS, NEW_CIPHERS)


def _trusted_x11(case: Case, out: str) -> str:
    """Debian trusts X11 clients by default; -Y and the keyword still count."""
    text = _text(case)
    if "forwardx11trusted" in text or any(re.match("-[^-]*Y", word) for word in case["argv"]):
        return out
    return out.replace("\nforwardx11trusted yes\n", "\nforwardx11trusted no\n")


def _batch_keepalive(case: Case, out: str) -> str:
    """Debian's BatchMode switches keep-alives on."""
    if "serveraliveinterval" in _text(case):
        return out
    return out.replace("\nserveraliveinterval 300\n", "\nserveraliveinterval 0\n")


def _qos(case: Case, out: str) -> str:
    """New default; the old type-of-service words mean nothing any more, nor do their numbers."""
    if "ipqos" not in _text(case):
        return out.replace("\nipqos lowdelay throughput\n", "\nipqos ef cs0\n")
    return out


def _send_env_once(case: Case, out: str) -> str:
    """10.x sends each pattern once."""
    lines: list[str] = []
    for line in out.split("\n"):
        if not (line.startswith("sendenv ") and line in lines):
            lines.append(line)
    return "\n".join(lines)


# What is different, and how the old answer becomes the new one.
REWRITES: tuple[tuple[str, Callable[[Case, str], str]], ...] = (
    (
        "identity files tried by default: id_xmss and id_dsa went, id_mldsa44 came",
        _default_identities,
    ),
    ("warnweakcrypto, obscurekeystroketiming and channeltimeout are printed", _new_lines),
    ("default order of key exchange and cipher names", _algorithm_orders),
    ("ForwardX11Trusted is yes in Debian, no upstream", _trusted_x11),
    ("BatchMode sets ServerAliveInterval 300 in Debian only", _batch_keepalive),
    ("IPQoS defaults to ef cs0", _qos),
    ("SendEnv patterns are listed once", _send_env_once),
)

OWN = [row.name.lower() for row in ROWS if row.quic == QUIC]

# What is different in a way that leaves nothing to compare: a pattern over words and files.
LEFT_OUT: tuple[tuple[str, str], ...] = (
    ("Match !final requested the second pass until 10.x", r"match[^\n]*!final"),
    (
        "Match criteria of 9.4 and 10.0",
        r"match[^\n]*\b(tagged|localnetwork|version|command|sessiontype)\b",
    ),
    (
        "keywords of 9.4 to 10.x and our own",
        r"(?m)^\s*(-o)?\s*(tag|channeltimeout|refuseconnection"
        rf"|obscurekeystroketiming|versionaddendum|warnweakcrypto|{'|'.join(OWN)})\b",
    ),
    (
        "tokens and variables in User, SetEnv, RevokedHostKeys and Include since 10.x",
        r"(?m)^[ =\"]*(user|setenv|revokedhostkeys|include)[ \t=\"]+[^\n]*(%|\$\{)",
    ),
    (
        "several RevokedHostKeys, and ~ in them, since 10.x",
        r'revokedhostkeys\b[\s=]+(~|""|[^\s]+ +[^\s#])',
    ),
    (
        "times: fractions came, a second number of seconds went",
        r"(?m)(timeout|interval|persist|addkeystoagent|rekeylimit)\b[^\n]*(\d\.\d|\ds\d)",
    ),
    ("IPQoS words of old", r"ipqos[^\n]*(lowdelay|throughput|reliability|0x|0\d)"),
    ("DSA and XMSS keys are gone", r"ssh-dss|xmss"),
    (
        "an empty algorithm list ends the run in 10.x",
        r"(ciphers|macs|kexalgorithms|algorithms|keytypes)[\s=]+(-\*|,)",
    ),
    (
        "wildcards over key types meet names that differ between the versions",
        r"(algorithms|keytypes)[\s=]+[^\n]*\*",
    ),
    ("a list that edits the default key exchanges shows the default", r"kexalgorithms[\s=]+[-+^]"),
    ("%j came with 9.7", r"%j"),
    ("-W with a path came with 10.x", r"(?m)^-(?-i:W)\n/"),
    ("-P takes a tag since 9.4", r"(?m)^-(?-i:P)"),
)


def comparable(case: Case, outcome: Outcome) -> Outcome:
    """The part of an answer that both sides must share."""
    stderr = re.sub(r"(?s)usage: .*", "usage\n", outcome["stderr"])
    if any(re.match("-[^-]*[Ey]", word) for word in case["argv"]):
        stderr = ""  # it goes to the file or to syslog, which is the client's work
    return Outcome(status=outcome["status"], stdout=outcome["stdout"], stderr=stderr)


def expected(case: Case, outcome: Outcome) -> Outcome:
    """The answer of 9.2 as 10.5 would give it."""
    out = outcome["stdout"]
    for _, rewrite in REWRITES:
        out = rewrite(case, out)
    return comparable(case, Outcome(status=outcome["status"], stdout=out, stderr=outcome["stderr"]))


def left_out(case: Case) -> str | None:
    """Why a case is not compared, None if it is."""
    return next((reason for reason, pattern in LEFT_OUT if touches(case, pattern)), None)


def touches(case: Case, pattern: str) -> bool:
    """Whether a row of LEFT_OUT is about this case."""
    text = "\n".join([*case["argv"], *case["files"].values()])
    return re.search(pattern, text, re.IGNORECASE) is not None
