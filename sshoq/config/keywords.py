"""The keywords of ssh_config: a row each, with how it is read, kept, defaulted, and what QUIC does.

The rows are the language; reader.py reads them, resolve.py fills in the defaults, dump.py prints.
"""

from __future__ import annotations

from sshoq.config import algorithms, values
from sshoq.config.lexer import ConfigSyntaxError
from sshoq.config.patterns import match_pattern
from sshoq.config.usage import INFO
from sshoq.config.values import UNSET, Line

TYPE_CHECKING = False  # what type checkers take for true; "collections" itself costs 1.5 ms
if TYPE_CHECKING:
    from collections.abc import Callable

    from sshoq.config.values import Reader

    Keep = Callable[[dict[str, object], str, object], None]

Settings = dict[str, object]

MAX_IDENTITIES = 100

# What a keyword means when the bytes below are QUIC's.
SAME = "same"
ACCEPTED = "accepted, no effect"
NOT_BUILT = "not supported, ignored"
TLS = "checked; TLS 1.3 chooses"
KEYS_CHANGE = "QUIC changes its keys by itself"
REFUSED = "refused when switched on"
QUIC = "SSHOQ's own"


def first(settings: Settings, attribute: str, value: object) -> None:
    """The first value wins, for ever."""
    settings.setdefault(attribute, value)


def last(settings: Settings, attribute: str, value: object) -> None:
    """The last value wins (StreamLocalBindMask alone)."""
    settings[attribute] = value


def collect(settings: Settings, attribute: str, value: object) -> None:
    """All values count, each once."""
    gathered(settings, attribute)[value] = None


def gathered(settings: Settings, attribute: str) -> dict[object, None]:
    """What an accumulating keyword has so far: a dict, for its order and its quick look-up."""
    known = settings.setdefault(attribute, {})
    assert isinstance(known, dict)
    return known


class Keyword:
    """A row of the table. always: kept even from blocks that do not match, as OpenSSH does."""

    __slots__ = ("always", "attribute", "default", "keep", "name", "quic", "read")

    def __init__(
        self,
        name: str,
        attribute: str,
        read: Reader,
        default: object = None,
        keep: Keep = first,
        quic: str = SAME,
        *,
        always: bool = False,
    ) -> None:
        self.name = name
        self.attribute = attribute
        self.read = read
        self.default = default
        self.keep = keep
        self.quic = quic
        self.always = always

    def apply(self, line: Line, settings: Settings) -> None:
        """Read the line's words and keep the value if the line counts."""
        value = self.read(line)
        if value is not UNSET and (line.active or self.always):
            self.keep(settings, self.attribute, value)


def keep_jump(settings: Settings, attribute: str, value: object) -> None:
    """ProxyJump and ProxyCommand exclude each other: whichever comes first."""
    if settings.get("proxy_command") is None and settings.get(attribute) is None:
        settings[attribute] = value
        if value:
            settings["proxy_command"] = "none"


def keep_proxy_command(settings: Settings, attribute: str, value: object) -> None:
    if not settings.get("proxy_jump"):
        settings.setdefault(attribute, value)


def keep_forward_agent(settings: Settings, attribute: str, value: object) -> None:
    """The path is kept apart from the switch, so a later line may still add it."""
    assert isinstance(value, tuple)
    switch, path = value
    settings.setdefault(attribute, switch)
    if path is not None:
        settings.setdefault("forward_agent_path", path)


def keep_rekey_limit(settings: Settings, attribute: str, value: object) -> None:
    assert isinstance(value, tuple)
    limit, interval = value
    settings.setdefault(attribute, limit)
    if interval is not UNSET:
        settings.setdefault("rekey_interval", interval)


def keep_sent_variables(settings: Settings, attribute: str, value: object) -> None:
    assert isinstance(value, tuple)
    known = gathered(settings, attribute)
    for word in value:
        if word.startswith("-"):
            for name in [name for name in known if match_pattern(str(name), word[1:])]:
                del known[name]
        else:
            known.setdefault(word)


def read_identity(line: Line) -> object:
    """(path, whether the user named it): the same path from a system file is another entry."""
    return line.need(), line.user_file


def keep_identity(settings: Settings, attribute: str, value: object) -> None:
    collect(settings, attribute, value)
    if len(gathered(settings, attribute)) > MAX_IDENTITIES:
        kind = "identity" if attribute == "identity_files" else "certificate"
        raise ConfigSyntaxError(f"Too many {kind} files specified (max {MAX_IDENTITIES}).")


def refuse_connection(line: Line) -> object:
    """RefuseConnection ends the run where it is met in a block that matches."""
    word = line.need()
    if line.active:
        raise values.FatalLine(f"RefuseConnection: {word}")
    return UNSET


KEYS = values.algorithms(algorithms.unknown_key, "Bad key types '%s'.")
CIPHERS = values.algorithms(algorithms.unknown_cipher, "Bad SSH2 cipher spec '%s'.")
MACS = values.algorithms(algorithms.unknown_mac, "Bad SSH2 MAC spec '%s'.")
KEX = values.algorithms(algorithms.unknown_kex, "Bad SSH2 KexAlgorithms '%s'.", kex=True)
GSS_KEX = values.algorithms(algorithms.unknown_gss_kex, "Bad GSSAPI KexAlgorithms '%s'.", kex=True)
YES_NO_ASK = values.yes_no_or(ask="ask")
CONTROL_MASTER = values.yes_no_or(ask="ask", auto="auto", autoask="autoask")
DEFAULT_IDENTITIES = tuple(
    (f"~/.ssh/{name}", False)
    for name in (
        "id_rsa",
        "id_ecdsa",
        "id_ecdsa_sk",
        "id_ed25519",
        "id_ed25519_sk",
        "id_mldsa44_ed25519",
    )
)
SYSTEM_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
USER_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")

_v = values
ROWS = (
    Keyword("AddKeysToAgent", "add_keys_to_agent", _v.add_keys, ("no", 0)),
    Keyword(
        "AddressFamily", "address_family", _v.choice(any="any", inet="inet", inet6="inet6"), "any"
    ),
    Keyword("BatchMode", "batch_mode", _v.flag, False),
    Keyword("BindAddress", "bind_address", _v.text),
    Keyword("BindInterface", "bind_interface", _v.text),
    Keyword("CanonicalDomains", "canonical_domains", _v.domains, ()),
    Keyword("CanonicalizeFallbackLocal", "canonicalize_fallback_local", _v.flag, True),
    Keyword("CanonicalizeHostname", "canonicalize_hostname", _v.yes_no_or(always="always"), "no"),
    Keyword("CanonicalizeMaxDots", "canonicalize_max_dots", _v.integer, 1),
    Keyword("CanonicalizePermittedCNAMEs", "permitted_cnames", _v.permitted_cnames, ()),
    Keyword("CASignatureAlgorithms", "ca_signature_algorithms", KEYS),
    Keyword("CertificateFile", "certificate_files", read_identity, (), keep_identity),
    Keyword("ChannelTimeout", "channel_timeouts", _v.channel_timeouts, ()),
    Keyword("CheckHostIP", "check_host_ip", _v.flag, False),
    Keyword("Ciphers", "ciphers", CIPHERS, quic=TLS),
    Keyword("ClearAllForwardings", "clear_all_forwardings", _v.flag),
    Keyword("Compression", "compression", _v.choice(yes="yes", no="no"), "no", quic=ACCEPTED),
    Keyword(
        "CongestionControl",
        "congestion_control",
        _v.choice(bbr="bbr", cubic="cubic"),
        "bbr",
        quic=QUIC,
    ),
    Keyword("ConnectionAttempts", "connection_attempts", _v.integer, 1),
    Keyword("ConnectTimeout", "connect_timeout", _v.seconds),
    Keyword("ControlMaster", "control_master", CONTROL_MASTER, "no"),
    Keyword("ControlPath", "control_path", _v.text),
    Keyword("ControlPersist", "control_persist", _v.control_persist, (False, 0)),
    Keyword("DynamicForward", "local_forwards", _v.forwarding(dynamic=True), (), collect),
    Keyword("EnableEscapeCommandline", "enable_escape_commandline", _v.flag, False),
    Keyword("EnableSSHKeysign", "enable_ssh_keysign", _v.flag, False, quic=ACCEPTED),
    Keyword("EscapeChar", "escape_char", _v.escape_character, ord("~")),
    Keyword("ExitOnForwardFailure", "exit_on_forward_failure", _v.flag),
    Keyword("FingerprintHash", "fingerprint_hash", _v.digest, "SHA256"),
    Keyword("ForkAfterAuthentication", "fork_after_authentication", _v.flag, False),
    Keyword("ForwardAgent", "forward_agent", _v.forward_agent, False, keep_forward_agent),
    Keyword("ForwardX11", "forward_x11", _v.flag, False),
    Keyword("ForwardX11Timeout", "forward_x11_timeout", _v.seconds, 1200),
    Keyword("ForwardX11Trusted", "forward_x11_trusted", _v.flag, False),
    Keyword("GatewayPorts", "gateway_ports", _v.flag, False),
    Keyword("GlobalKnownHostsFile", "global_known_hosts_files", _v.host_files, SYSTEM_KNOWN_HOSTS),
    Keyword("GSSAPIAuthentication", "gssapi_authentication", _v.flag, False, quic=ACCEPTED),
    Keyword("GSSAPIClientIdentity", "gssapi_client_identity", _v.text, quic=ACCEPTED),
    Keyword(
        "GSSAPIDelegateCredentials", "gssapi_delegate_credentials", _v.flag, False, quic=ACCEPTED
    ),
    Keyword("GSSAPIKexAlgorithms", "gssapi_kex_algorithms", GSS_KEX, quic=ACCEPTED),
    Keyword("GSSAPIKeyExchange", "gssapi_key_exchange", _v.flag, False, quic=ACCEPTED),
    Keyword(
        "GSSAPIRenewalForcesRekey", "gssapi_renewal_forces_rekey", _v.flag, False, quic=ACCEPTED
    ),
    Keyword("GSSAPIServerIdentity", "gssapi_server_identity", _v.text, quic=ACCEPTED),
    Keyword("GSSAPITrustDns", "gssapi_trust_dns", _v.flag, False, quic=ACCEPTED),
    Keyword("HashKnownHosts", "hash_known_hosts", _v.flag, False),
    Keyword("HostbasedAcceptedAlgorithms", "hostbased_accepted_algorithms", KEYS, quic=ACCEPTED),
    Keyword("HostbasedAuthentication", "hostbased_authentication", _v.flag, False, quic=ACCEPTED),
    Keyword("HostKeyAlgorithms", "host_key_algorithms", KEYS),
    Keyword("HostKeyAlias", "host_key_alias", _v.text),
    Keyword("HostName", "hostname", _v.text),
    Keyword("IdentitiesOnly", "identities_only", _v.flag, False),
    Keyword("IdentityAgent", "identity_agent", _v.agent_socket),
    Keyword("IdentityFile", "identity_files", read_identity, (), keep_identity),
    Keyword("IgnoreUnknown", "ignore_unknown", _v.text),
    Keyword("IPQoS", "ip_qos", _v.qos, (_v.DSCP["ef"], _v.DSCP["cs0"])),
    Keyword("KbdInteractiveAuthentication", "kbd_interactive_authentication", _v.flag, True),
    Keyword("KbdInteractiveDevices", "kbd_interactive_devices", _v.text),
    Keyword("KexAlgorithms", "kex_algorithms", KEX, quic=TLS),
    Keyword("KnownHostsCommand", "known_hosts_command", _v.command),
    Keyword("LocalCommand", "local_command", _v.command),
    Keyword("LocalForward", "local_forwards", _v.forwarding(), (), collect),
    Keyword("LogLevel", "log_level", _v.log_level, INFO),
    Keyword("LogVerbose", "log_verbose", _v.first_word, (), quic=ACCEPTED),
    Keyword("MACs", "macs", MACS, quic=TLS),
    Keyword(
        "NoHostAuthenticationForLocalhost", "no_host_authentication_for_localhost", _v.flag, False
    ),
    Keyword("NumberOfPasswordPrompts", "number_of_password_prompts", _v.integer, 3),
    Keyword(
        "ObscureKeystrokeTiming",
        "obscure_keystroke_interval",
        _v.keystroke_timing,
        _v.DEFAULT_KEYSTROKE_INTERVAL,
    ),
    Keyword("PasswordAuthentication", "password_authentication", _v.flag, True),
    Keyword("PermitLocalCommand", "permit_local_command", _v.flag, False),
    Keyword("PermitRemoteOpen", "permit_remote_open", _v.remote_opens, ()),
    Keyword("PKCS11Provider", "pkcs11_provider", _v.text),
    Keyword("Port", "port", _v.port, 22, quic="the UDP port, unless QUICPort is set or it is 22"),
    Keyword("PreferredAuthentications", "preferred_authentications", _v.text),
    Keyword("ProxyCommand", "proxy_command", _v.command, None, keep_proxy_command, "plain ssh"),
    Keyword("ProxyJump", "proxy_jump", _v.jump, None, keep_jump),
    Keyword("ProxyUseFdpass", "proxy_use_fdpass", _v.flag, False, quic="plain ssh"),
    Keyword("PubkeyAcceptedAlgorithms", "pubkey_accepted_algorithms", KEYS),
    Keyword(
        "PubkeyAuthentication",
        "pubkey_authentication",
        _v.yes_no_or(unbound="unbound", host_bound="host-bound"),
        "yes",
    ),
    Keyword("QUICPort", "quic_port", _v.port, quic=QUIC),
    Keyword("RefuseConnection", "refuse_connection", refuse_connection),
    Keyword("RekeyLimit", "rekey_limit", _v.rekey_limit, 0, keep_rekey_limit, KEYS_CHANGE),
    Keyword("RemoteCommand", "remote_command", _v.command),
    Keyword("RemoteForward", "remote_forwards", _v.forwarding(remote=True), (), collect),
    Keyword("RequestTTY", "request_tty", _v.yes_no_or(force="force", auto="auto"), "auto"),
    Keyword("RequiredRSASize", "required_rsa_size", _v.integer, 1024),
    Keyword("RevokedHostKeys", "revoked_host_keys", _v.word_list(), ()),
    Keyword("SecurityKeyProvider", "security_key_provider", _v.text, "internal"),
    Keyword("SendEnv", "send_env", _v.sent_variables, (), keep_sent_variables),
    Keyword("ServerAliveCountMax", "server_alive_count_max", _v.integer, 3),
    Keyword("ServerAliveInterval", "server_alive_interval", _v.seconds, 0, quic="PING frames"),
    Keyword("ServerCertificate", "server_certificate", _v.text, quic=QUIC),
    Keyword(
        "SessionType",
        "session_type",
        _v.choice(none="none", subsystem="subsystem", default="default"),
        "default",
    ),
    Keyword("SetEnv", "set_env", _v.set_variables, ()),
    Keyword("StdinNull", "stdin_null", _v.flag, False),
    Keyword("StreamLocalBindMask", "stream_local_bind_mask", _v.mask, 0o177, last, always=True),
    Keyword("StreamLocalBindUnlink", "stream_local_bind_unlink", _v.flag, False),
    Keyword(
        "StrictHostKeyChecking",
        "strict_host_key_checking",
        _v.yes_no_or(ask="ask", off="no", accept_new="accept-new"),
        "ask",
    ),
    Keyword("SyslogFacility", "syslog_facility", _v.log_facility, "USER", always=True),
    Keyword("Tag", "tag", _v.text),
    Keyword("TCPKeepAlive", "tcp_keep_alive", _v.flag, True, quic=ACCEPTED),
    Keyword(
        "Transport", "transport", _v.choice(quic="quic", auto="auto", ssh="ssh"), "auto", quic=QUIC
    ),
    Keyword(
        "Tunnel",
        "tunnel",
        _v.choice(
            ethernet="ethernet",
            point_to_point="point-to-point",
            true="point-to-point",
            yes="point-to-point",
            false="no",
            no="no",
        ),
        "no",
        quic=REFUSED,
    ),
    Keyword("TunnelDevice", "tunnel_device", _v.tunnel_device, (-1, -1), quic=REFUSED),
    Keyword("UDPProxyJump", "udp_proxy_jump", _v.text, quic=QUIC),
    Keyword("UpdateHostKeys", "update_host_keys", YES_NO_ASK),
    Keyword("URLPath", "url_path", _v.url_path, quic=QUIC),
    Keyword("User", "user", _v.text),
    Keyword("UserKnownHostsFile", "user_known_hosts_files", _v.host_files, USER_KNOWN_HOSTS),
    Keyword("VerifyHostKeyDNS", "verify_host_key_dns", YES_NO_ASK, "no", quic=ACCEPTED),
    Keyword("VersionAddendum", "version_addendum", _v.raw_text, quic=ACCEPTED),
    Keyword("VisualHostKey", "visual_host_key", _v.flag, False),
    Keyword("WarnWeakCrypto", "warn_weak_crypto", _v.yes_no_or(no_pq_kex="no-pq-kex"), "yes"),
    Keyword("XAuthLocation", "xauth_location", _v.text, "/usr/bin/xauth"),
)

KEYWORDS = {row.name.lower(): row for row in ROWS}

ALIASES = {
    "challengeresponseauthentication": "kbdinteractiveauthentication",
    "skeyauthentication": "kbdinteractiveauthentication",
    "tisauthentication": "kbdinteractiveauthentication",
    "dsaauthentication": "pubkeyauthentication",
    "identityfile2": "identityfile",
    "keepalive": "tcpkeepalive",
    "hostbasedkeytypes": "hostbasedacceptedalgorithms",
    "pubkeyacceptedkeytypes": "pubkeyacceptedalgorithms",
    "smartcarddevice": "pkcs11provider",
}
DEPRECATED = frozenset(
    (
        "cipher",
        "fallbacktorsh",
        "globalknownhostsfile2",
        "rhostsauthentication",
        "userknownhostsfile2",
        "useroaming",
        "usersh",
        "useprivilegedport",
    )
)
IGNORED = frozenset(("protocol",))
UNSUPPORTED = frozenset(
    (
        "afstokenpassing",
        "kerberosauthentication",
        "kerberostgtpassing",
        "rsaauthentication",
        "rhostsrsaauthentication",
        "compressionlevel",
    )
)
BLOCKS = frozenset(("host", "match", "include"))
