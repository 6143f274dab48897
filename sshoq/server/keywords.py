"""Process: main [root]. The keywords of sshd_config as a table: how each is read, shown, merged,
and what becomes of it here.

Every keyword of OpenSSH 10.5 has its row, so that an sshd_config can be used as it stands, and none
that limits who gets in is passed over in silence: what cannot be enforced is REFUSED. Reads no file
and knows no Match.
"""

from collections.abc import Mapping
from typing import Any

from sshoq.config.lexer import ascii_lower
from sshoq.named_tuple import NamedTuple
from sshoq.server.admission_values import (
    LISTEN,
    MAX_STARTUPS,
    NET_BLOCK,
    NETWORKS,
    PENALTIES,
    PENALTY_TABLE,
    SOURCE_LIMIT,
    MaxStartups,
    NetBlockSize,
)
from sshoq.server.algorithm_values import (
    ALGORITHMS,
    CA_ALGORITHMS,
    CA_SIGNATURES,
    CIPHERS,
    DEFAULT_KEYS,
    GSS_KEX,
    KEX,
    MACS,
    QOS,
    REKEY_LIMIT,
)
from sshoq.server.log import FACILITIES, LEVELS
from sshoq.server.values import (
    ABSOLUTE_COMMAND,
    APPEND,
    ASSIGNMENTS,
    COMMAND,
    DEMANDS,
    FILE,
    FILES,
    FILES_OR_NONE,
    FLAG,
    HASH,
    IGNORED,
    INTEGER,
    KEY_FILES,
    MASK,
    MERGE,
    METHODS,
    NAMES,
    PAM_SERVICE,
    PATH,
    PATTERNS,
    PERMITTED,
    PORTS,
    SUBSYSTEMS,
    TEXT,
    TIME,
    TIMEOUT,
    TIMEOUTS,
    UNSET,
    URL_PATH,
    USER,
    USER_ENVIRONMENT,
    Kind,
    choice,
    log_name,
)

# What becomes of a keyword here.
ACTED = "acted upon"
LATER = "checked and kept, but tunnels are not made, so there is nothing to permit"
VOID = "without meaning over QUIC, or for a method that is never offered"
REFUSED = "a limit that is not enforced, so a value that sets it stops the start"

# Where it may stand.
GLOBAL = False
MATCH = True


class Keyword(NamedTuple):
    name: str
    kind: Kind
    default: Any
    in_match: bool
    treatment: str
    attribute: str


def attribute_name(keyword: str) -> str:
    """PermitRootLogin -> permit_root_login, UsePAM -> use_pam, URLPath -> url_path."""
    out: list[str] = []
    for i, char in enumerate(keyword):
        before, after = keyword[i - 1 : i], keyword[i + 1 : i + 2]
        if char.isupper() and before and (before.islower() or (before and after.islower())):
            out.append("_")
        out.append(char.lower())
    return "".join(out)


TUNNEL = choice("point-to-point", "ethernet", "yes", "no", complaint="bad PermitTunnel argument {}")


def _row(name: str, kind: Kind, default: Any, in_match: bool, treatment: str = ACTED) -> Keyword:
    return Keyword(name, kind, default, in_match, treatment, attribute_name(name))


_COMPRESSION = choice("yes", "delayed", "no")
RHOSTS = choice("yes", "no", "shosts-only")
_FORWARDING = choice("yes", ("all", "yes"), "no", "remote", "local")

_ROWS = [
    # In the order of `sshd -T`.
    _row("Port", PORTS, (), GLOBAL),
    _row("AddressFamily", choice("any", "inet", "inet6"), "any", GLOBAL),
    _row("ListenAddress", LISTEN, (), GLOBAL),
    _row("UsePAM", FLAG, True, GLOBAL),
    _row("PAMServiceName", PAM_SERVICE, "sshoq", MATCH),
    _row("LoginGraceTime", TIME, 120, GLOBAL),
    _row("X11DisplayOffset", INTEGER, 10, MATCH),
    _row("MaxAuthTries", INTEGER, 6, MATCH),
    _row("MaxSessions", INTEGER, 10, MATCH),
    _row("ClientAliveInterval", TIME, 0, MATCH),
    _row("ClientAliveCountMax", INTEGER, 3, MATCH),
    _row("RequiredRSASize", INTEGER, 1024, MATCH),
    _row("StreamLocalBindMask", MASK, 0o177, MATCH),
    _row(
        "PermitRootLogin",
        choice(
            ("without-password", "prohibit-password"),
            "prohibit-password",
            "forced-commands-only",
            "yes",
            "no",
        )._replace(
            show=lambda value: ["without-password" if value == "prohibit-password" else str(value)]
        ),
        "prohibit-password",
        MATCH,
    ),
    _row("PubkeyAuthentication", FLAG, True, MATCH),
    _row("PasswordAuthentication", FLAG, True, MATCH),
    _row("KbdInteractiveAuthentication", FLAG, True, MATCH),
    _row("PrintMotd", FLAG, True, GLOBAL),
    _row("PrintLastLog", FLAG, True, GLOBAL),
    _row("X11Forwarding", FLAG, False, MATCH),
    _row("X11UseLocalhost", FLAG, True, MATCH),
    _row("PermitTTY", FLAG, True, MATCH),
    _row("PermitUserRC", FLAG, True, MATCH),
    _row("StrictModes", FLAG, True, GLOBAL),
    _row("PermitEmptyPasswords", FLAG, False, MATCH),
    _row("GatewayPorts", choice("clientspecified", "yes", "no"), "no", MATCH),
    _row("UseDNS", FLAG, False, GLOBAL),
    _row("AllowTcpForwarding", _FORWARDING, "yes", MATCH),
    _row("AllowAgentForwarding", FLAG, True, MATCH),
    _row("DisableForwarding", FLAG, False, MATCH),
    _row("AllowStreamLocalForwarding", _FORWARDING, "yes", MATCH),
    _row("StreamLocalBindUnlink", FLAG, False, MATCH),
    _row("FingerprintHash", HASH, "SHA256", GLOBAL),
    _row("ExposeAuthInfo", FLAG, False, MATCH),
    _row("RefuseConnection", FLAG, False, MATCH),
    _row("PidFile", FILE, None, GLOBAL),
    _row("XAuthLocation", FILE, "/usr/bin/xauth", GLOBAL),
    _row("Banner", FILE, None, MATCH),
    _row("ForceCommand", COMMAND, None, MATCH),
    _row("ChrootDirectory", PATH, None, MATCH),
    _row("TrustedUserCAKeys", FILE, None, MATCH),
    _row("RevokedKeys", FILE, None, MATCH),
    _row("AuthorizedPrincipalsFile", PATH, None, MATCH),
    _row("AuthorizedKeysCommand", ABSOLUTE_COMMAND, None, MATCH),
    _row("AuthorizedKeysCommandUser", USER, None, MATCH),
    _row("AuthorizedPrincipalsCommand", ABSOLUTE_COMMAND, None, MATCH),
    _row("AuthorizedPrincipalsCommandUser", USER, None, MATCH),
    _row("CASignatureAlgorithms", CA_ALGORITHMS, CA_SIGNATURES, MATCH),
    _row("HostKeyAlgorithms", ALGORITHMS, DEFAULT_KEYS, GLOBAL),
    _row("PubkeyAcceptedAlgorithms", ALGORITHMS, DEFAULT_KEYS, MATCH),
    _row("LogLevel", log_name(LEVELS, "level"), "INFO", MATCH),
    _row("SyslogFacility", log_name(FACILITIES, "facility"), "AUTH", GLOBAL),
    _row("AuthorizedKeysFile", KEY_FILES, (".ssh/authorized_keys", ".ssh/authorized_keys2"), MATCH),
    _row("HostKey", FILES, (), GLOBAL),
    _row("HostCertificate", FILES_OR_NONE, (), GLOBAL),
    _row("AllowUsers", PATTERNS, (), MATCH),
    _row("DenyUsers", PATTERNS, (), MATCH),
    _row("AllowGroups", PATTERNS, (), MATCH),
    _row("DenyGroups", PATTERNS, (), MATCH),
    _row("AcceptEnv", NAMES, (), MATCH),
    _row("SetEnv", ASSIGNMENTS, (), MATCH),
    _row("AuthenticationMethods", METHODS, ("any",), MATCH),
    _row("Subsystem", SUBSYSTEMS, {}, MATCH),
    _row("MaxStartups", MAX_STARTUPS, MaxStartups(10, 30, 100), GLOBAL),
    _row("PerSourceMaxStartups", SOURCE_LIMIT, None, GLOBAL),
    _row("PerSourceNetBlockSize", NET_BLOCK, NetBlockSize(32, 128), GLOBAL),
    _row("PermitTunnel", TUNNEL, "no", MATCH, LATER),
    _row("PermitOpen", PERMITTED, ("any",), MATCH),
    _row("PermitListen", PERMITTED, ("any",), MATCH),
    _row("PermitUserEnvironment", USER_ENVIRONMENT, "", GLOBAL),
    _row("PubkeyAuthOptions", DEMANDS, (), MATCH),
    _row("UnusedConnectionTimeout", TIMEOUT, None, MATCH),
    _row("ChannelTimeout", TIMEOUTS, (), MATCH),
    _row("PerSourcePenalties", PENALTY_TABLE, PENALTIES, GLOBAL),
    _row("PerSourcePenaltyExemptList", NETWORKS, None, GLOBAL),
    # Our own.
    _row("URLPath", URL_PATH, "/sshoq-server", GLOBAL),
    _row("CongestionControl", choice("bbr", "cubic"), "bbr", GLOBAL),
    _row("Certificate", FILE, None, GLOBAL),
    _row("CertificateKey", FILE, None, GLOBAL),
    _row("DisableSFTP", FLAG, False, MATCH),
    # Limits that are not enforced.
    _row("RDomain", UNSET, None, MATCH, REFUSED),
    _row("HostKeyAgent", UNSET, None, GLOBAL, REFUSED),
    # Without meaning here.
    *[
        _row(name, kind, None, in_match, VOID)
        for name, kind, in_match in (
            ("Ciphers", CIPHERS, GLOBAL),
            ("Compression", _COMPRESSION, GLOBAL),
            ("DebianBanner", FLAG, GLOBAL),
            ("GSSAPIAuthentication", FLAG, MATCH),
            ("GSSAPICleanupCredentials", FLAG, GLOBAL),
            ("GSSAPIDelegateCredentials", FLAG, GLOBAL),
            ("GSSAPIKexAlgorithms", GSS_KEX, GLOBAL),
            ("GSSAPIKeyExchange", FLAG, GLOBAL),
            ("GSSAPIStoreCredentialsOnRekey", FLAG, GLOBAL),
            ("GSSAPIStrictAcceptorCheck", FLAG, GLOBAL),
            ("HostbasedAcceptedAlgorithms", ALGORITHMS, MATCH),
            ("HostbasedAuthentication", FLAG, MATCH),
            ("HostbasedUsesNameFromPacketOnly", FLAG, MATCH),
            ("IPQoS", QOS, MATCH),
            ("IgnoreRhosts", RHOSTS, MATCH),
            ("IgnoreUserKnownHosts", FLAG, GLOBAL),
            ("KerberosAuthentication", FLAG, MATCH),
            ("KerberosOrLocalPasswd", FLAG, GLOBAL),
            ("KerberosTicketCleanup", FLAG, GLOBAL),
            ("KexAlgorithms", KEX, GLOBAL),
            ("LogVerbose", IGNORED, MATCH),
            ("Macs", MACS, GLOBAL),
            ("ModuliFile", FILE, GLOBAL),
            ("RekeyLimit", REKEY_LIMIT, MATCH),
            ("SecurityKeyProvider", TEXT, GLOBAL),
            ("SshdAuthPath", TEXT, GLOBAL),
            ("SshdSessionPath", TEXT, GLOBAL),
            ("TCPKeepAlive", FLAG, GLOBAL),
            ("VersionAddendum", IGNORED, GLOBAL),
        )
    ],
]

KEYWORDS = {ascii_lower(row.name): row for row in _ROWS}

ALIASES = {
    "challengeresponseauthentication": "kbdinteractiveauthentication",
    "dsaauthentication": "pubkeyauthentication",
    "hostbasedacceptedkeytypes": "hostbasedacceptedalgorithms",
    "keepalive": "tcpkeepalive",
    "pubkeyacceptedkeytypes": "pubkeyacceptedalgorithms",
    "skeyauthentication": "kbdinteractiveauthentication",
}

DEPRECATED = frozenset(
    (
        "authorizedkeysfile2",
        "checkmail",
        "keyregenerationinterval",
        "pamauthenticationviakbdint",
        "reversemappingcheck",
        "rhostsauthentication",
        "rhostsrsaauthentication",
        "rsaauthentication",
        "serverkeybits",
        "uselogin",
        "useprivilegeseparation",
        "verifyreversemapping",
    )
)
"""sshd says "Deprecated option" and goes on."""

SILENT = frozenset(("protocol",))
UNSUPPORTED = frozenset(("kerberostgtpassing", "afstokenpassing", "kerberosgetafstoken"))
"""sshd says "Unsupported option" and goes on: methods that it could have been built with."""


MERGES = {keyword.attribute: keyword.kind.merge for keyword in KEYWORDS.values()}


def add_value(into: dict[str, Any], attribute: str, value: Any) -> None:
    """To those that came before, by the keyword's rule."""
    if attribute not in into:
        into[attribute] = value
    elif MERGES[attribute] is APPEND:
        into[attribute] = into[attribute] + value
    elif MERGES[attribute] is MERGE:
        into[attribute] = into[attribute] | {
            name: one for name, one in value.items() if name not in into[attribute]
        }


def overlaid(values: Mapping[str, Any], stronger: Mapping[str, Any]) -> dict[str, Any]:
    """Those values, with stronger ones in their places."""
    result = dict(values)
    for attribute, value in stronger.items():
        is_table = MERGES[attribute] is MERGE
        result[attribute] = {**result[attribute], **value} if is_table else value
    return result
