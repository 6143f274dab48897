"""The output of -G: OpenSSH's form and order, and SSHOQ's own keywords where they are set."""

from __future__ import annotations

from sshoq.config.forward_spec import Forward
from sshoq.config.options import level_name
from sshoq.config.values import DEFAULT_KEYSTROKE_INTERVAL, DSCP, TUNNEL_ANY

TYPE_CHECKING = False  # what type checkers take for true; "typing" itself costs 3 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sshoq.config.resolve import Invocation

    Form = Callable[[object], str | None]


def _flag(value: object) -> str:
    return "yes" if value else "no"


def _text(value: object) -> str | None:
    """A word or a number; nothing is printed for one that is not set."""
    return None if value is None else str(value)


def _state(value: object) -> str:
    """OpenSSH prints the first spelling of a state, and that is "true" for yes."""
    return {"yes": "true", "no": "false"}.get(str(value), str(value))


def _level(value: object) -> str:
    assert isinstance(value, int)
    return level_name(value)


def _words(empty: str) -> Form:
    """A list in one line; empty is what stands for no entry."""

    def form(value: object) -> str:
        assert isinstance(value, tuple)
        return " ".join(value) or empty

    return form


def _add_keys(value: object) -> str:
    assert isinstance(value, tuple)
    state, lifetime = value
    if not lifetime:
        return _state(state)
    return f"confirm {lifetime}" if state == "confirm" else str(lifetime)


def _seconds_or_none(value: object) -> str:
    return "none" if value is None else str(value)


def _tunnel_device(value: object) -> str:
    assert isinstance(value, tuple)
    return ":".join("any" if number == TUNNEL_ANY else str(number) for number in value)


def _cnames(value: object) -> str:
    assert isinstance(value, tuple)
    if not value or value[0][0].lower() == "none":
        return "none"
    return " ".join(f"{source}:{target}" for source, target in value)


def _persist(value: object) -> str:
    assert isinstance(value, tuple)
    stays, lifetime = value
    return _flag(stays) if not lifetime else str(lifetime)


def _escape(value: object) -> str:
    """The character, made visible as vis(3) does."""
    if not isinstance(value, int):
        return "none"
    low = value & 0x7F
    if low == 0x20 or (value < 0x20 and value in b"\t\n"):
        return f"\\{value:03o}" if value < 0x80 else "\\240"
    meta = "\\M" if value & 0x80 else ""
    if low < 0x20 or low == 0x7F:
        return f"{meta or chr(92)}^{'?' if low == 0x7F else chr(low + 0x40)}"
    if meta:
        return f"{meta}-{chr(low)}"
    return "\\\\" if low == 0x5C else chr(low)


_DSCP_NAMES = {value: name for name, value in reversed(DSCP.items())}


def _qos(value: object) -> str:
    assert isinstance(value, tuple)
    return " ".join(_qos_name(field) for field in value)


def _qos_name(field: int | None) -> str:
    if field is None:
        return "none"
    return _DSCP_NAMES.get(field, f"0x{field:02x}")


def _keystrokes(value: object) -> str:
    if value in (0, DEFAULT_KEYSTROKE_INTERVAL):
        return _flag(value)
    return f"interval:{value}"


def _mask(value: object) -> str:
    assert isinstance(value, int)
    return f"0{value:o}"


# (name, attribute, form) in OpenSSH's order: flags, numbers, strings.
_SCALARS: tuple[tuple[str, str, Form], ...] = (
    ("user", "user", _text),
    ("hostname", "hostname", _text),
    ("port", "port", _text),
    ("addressfamily", "address_family", _text),
    ("batchmode", "batch_mode", _flag),
    ("canonicalizefallbacklocal", "canonicalize_fallback_local", _flag),
    ("canonicalizehostname", "canonicalize_hostname", _state),
    ("checkhostip", "check_host_ip", _flag),
    ("compression", "compression", _text),
    ("controlmaster", "control_master", _state),
    ("enablesshkeysign", "enable_ssh_keysign", _flag),
    ("clearallforwardings", "clear_all_forwardings", _flag),
    ("exitonforwardfailure", "exit_on_forward_failure", _flag),
    ("fingerprinthash", "fingerprint_hash", _text),
    ("forwardx11", "forward_x11", _flag),
    ("forwardx11trusted", "forward_x11_trusted", _flag),
    ("gatewayports", "gateway_ports", _flag),
    ("gssapiauthentication", "gssapi_authentication", _flag),
    ("gssapikeyexchange", "gssapi_key_exchange", _flag),
    ("gssapidelegatecredentials", "gssapi_delegate_credentials", _flag),
    ("gssapitrustdns", "gssapi_trust_dns", _flag),
    ("gssapirenewalforcesrekey", "gssapi_renewal_forces_rekey", _flag),
    ("gssapiclientidentity", "gssapi_client_identity", _text),
    ("gssapiserveridentity", "gssapi_server_identity", _text),
    ("gssapikexalgorithms", "gssapi_kex_algorithms", _text),
    ("hashknownhosts", "hash_known_hosts", _flag),
    ("hostbasedauthentication", "hostbased_authentication", _flag),
    ("identitiesonly", "identities_only", _flag),
    ("kbdinteractiveauthentication", "kbd_interactive_authentication", _flag),
    ("nohostauthenticationforlocalhost", "no_host_authentication_for_localhost", _flag),
    ("passwordauthentication", "password_authentication", _flag),
    ("permitlocalcommand", "permit_local_command", _flag),
    ("proxyusefdpass", "proxy_use_fdpass", _flag),
    ("pubkeyauthentication", "pubkey_authentication", _state),
    ("requesttty", "request_tty", _state),
    ("sessiontype", "session_type", _text),
    ("stdinnull", "stdin_null", _flag),
    ("forkafterauthentication", "fork_after_authentication", _flag),
    ("streamlocalbindunlink", "stream_local_bind_unlink", _flag),
    ("stricthostkeychecking", "strict_host_key_checking", _state),
    ("tcpkeepalive", "tcp_keep_alive", _flag),
    ("tunnel", "tunnel", _state),
    ("verifyhostkeydns", "verify_host_key_dns", _state),
    ("visualhostkey", "visual_host_key", _flag),
    ("updatehostkeys", "update_host_keys", _state),
    ("enableescapecommandline", "enable_escape_commandline", _flag),
    ("warnweakcrypto", "warn_weak_crypto", _state),
    ("canonicalizemaxdots", "canonicalize_max_dots", _text),
    ("connectionattempts", "connection_attempts", _text),
    ("forwardx11timeout", "forward_x11_timeout", _text),
    ("numberofpasswordprompts", "number_of_password_prompts", _text),
    ("serveralivecountmax", "server_alive_count_max", _text),
    ("serveraliveinterval", "server_alive_interval", _text),
    ("requiredrsasize", "required_rsa_size", _text),
    ("obscurekeystroketiming", "obscure_keystroke_interval", _keystrokes),
    ("bindaddress", "bind_address", _text),
    ("bindinterface", "bind_interface", _text),
    ("ciphers", "ciphers", _text),
    ("controlpath", "control_path", _text),
    ("hostkeyalgorithms", "host_key_algorithms", _text),
    ("hostkeyalias", "host_key_alias", _text),
    ("hostbasedacceptedalgorithms", "hostbased_accepted_algorithms", _text),
    ("identityagent", "identity_agent", _text),
    ("ignoreunknown", "ignore_unknown", _text),
    ("kbdinteractivedevices", "kbd_interactive_devices", _text),
    ("kexalgorithms", "kex_algorithms", _text),
    ("casignaturealgorithms", "ca_signature_algorithms", _text),
    ("localcommand", "local_command", _text),
    ("remotecommand", "remote_command", _text),
    ("loglevel", "log_level", _level),
    ("macs", "macs", _text),
    ("pkcs11provider", "pkcs11_provider", _text),
    ("securitykeyprovider", "security_key_provider", _text),
    ("preferredauthentications", "preferred_authentications", _text),
    ("pubkeyacceptedalgorithms", "pubkey_accepted_algorithms", _text),
    ("revokedhostkeys", "revoked_host_keys", lambda value: _words("")(value) or None),
    ("xauthlocation", "xauth_location", _text),
    ("knownhostscommand", "known_hosts_command", _text),
    ("tag", "tag", _text),
    ("versionaddendum", "version_addendum", _text),
)

# After the forwardings: lists of one line an entry (True) or all in one line, then the special
# forms.
_LISTS: tuple[tuple[str, str, Form | None], ...] = (
    ("identityfile", "identity_files", None),
    ("canonicaldomains", "canonical_domains", _words("none")),
    ("certificatefile", "certificate_files", None),
    ("globalknownhostsfile", "global_known_hosts_files", _words("none")),
    ("userknownhostsfile", "user_known_hosts_files", _words("none")),
    ("sendenv", "send_env", None),
    ("setenv", "set_env", None),
    ("logverbose", "log_verbose", _words("none")),
    ("channeltimeout", "channel_timeouts", _words("none")),
    ("permitremoteopen", "permit_remote_open", _words("any")),
    ("addkeystoagent", "add_keys_to_agent", _add_keys),
    ("forwardagent", "forward_agent", _flag),
    ("connecttimeout", "connect_timeout", _seconds_or_none),
    ("tunneldevice", "tunnel_device", _tunnel_device),
    ("canonicalizePermittedcnames", "permitted_cnames", _cnames),
    ("controlpersist", "control_persist", _persist),
    ("escapechar", "escape_char", _escape),
    ("ipqos", "ip_qos", _qos),
)
_LAST: tuple[tuple[str, str, Form], ...] = (
    ("streamlocalbindmask", "stream_local_bind_mask", _mask),
    ("syslogfacility", "syslog_facility", _text),
)
# Own keywords and the values that go without saying.
_OWN: tuple[tuple[str, str, object], ...] = (
    ("transport", "transport", "auto"),
    ("congestioncontrol", "congestion_control", "bbr"),
    ("udpproxyjump", "udp_proxy_jump", None),
    ("servercertificate", "server_certificate", None),
)


def dump_options(invocation: Invocation) -> list[str]:
    """The lines of -G, without line ends."""
    values = vars(invocation.options)
    lines = [f"host {invocation.typed_host}"]
    lines += _render(_SCALARS, values)
    lines += _forward_lines(values)
    lines += _render(_LISTS, values)
    lines.append(f"rekeylimit {values['rekey_limit']} {values['rekey_interval']}")
    lines += _render(_LAST, values)
    lines += _proxy_lines(invocation)
    lines += _own_lines(invocation)
    return lines


def _render(
    rows: Iterable[tuple[str, str, Form | None]], values: dict[str, object]
) -> Iterable[str]:
    for name, attribute, form in rows:
        value = values[attribute]
        if name == "forwardagent" and values["forward_agent_path"] is not None:
            value, form = values["forward_agent_path"], _text
        if form is None:
            assert isinstance(value, tuple)
            yield from (f"{name} {entry}" for entry in value)
        elif (shown := form(value)) is not None:
            yield f"{name} {shown}"


def _forward_lines(values: dict[str, object]) -> Iterable[str]:
    """OpenSSH lists a forwarding to a path among the dynamic ones, too."""
    local, remote = values["local_forwards"], values["remote_forwards"]
    assert isinstance(local, tuple)
    assert isinstance(remote, tuple)
    for forward in local:
        assert isinstance(forward, Forward)
        if forward.dynamic or forward.connect_path is not None:
            yield f"dynamicforward {forward.listen_text()}"
    for name, forwards in (("localforward", local), ("remoteforward", remote)):
        for forward in forwards:
            if name == "remoteforward" or not forward.dynamic:
                prefix = "udp:" if forward.protocol == "udp" else ""
                yield f"{name} {prefix}{forward.listen_text()} {forward.connect_text()}"


def _proxy_lines(invocation: Invocation) -> Iterable[str]:
    options = invocation.options
    if options.jump_hosts:
        earlier, _, _ = (options.proxy_jump or "").rpartition(",")
        last = str(options.jump_hosts[-1])
        yield f"proxyjump {earlier},{last}" if earlier else f"proxyjump {last}"
    elif options.proxy_command is not None:
        yield f"proxycommand {options.proxy_command}"


def _own_lines(invocation: Invocation) -> Iterable[str]:
    options = invocation.options
    values = vars(options)
    if options.quic_port not in (443, options.port):
        yield f"quicport {options.quic_port}"
    if not options.url_path_is_default:
        yield f"urlpath {options.url_path}"
    for name, attribute, default in _OWN:
        if values[attribute] != default:
            yield f"{name} {values[attribute]}"
