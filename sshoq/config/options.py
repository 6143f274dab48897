"""The finished wishes: a typed attribute for each keyword and flag, defaults filled in."""

from __future__ import annotations

from sshoq.config.destination import JumpHost
from sshoq.config.forward_spec import Forward
from sshoq.config.keywords import Settings
from sshoq.config.tokens import Tokens
from sshoq.config.usage import DEBUG1, LOG_LEVELS

TYPE_CHECKING = False  # what type checkers take for true; "collections" itself costs 1.5 ms
if TYPE_CHECKING:
    from collections.abc import Callable


class Options:
    """What the user wants, for one destination. Made by resolve.py and never changed.

    Switches are bool, times are seconds, states are OpenSSH's words in lower case ("yes",
    "accept-new"). None means: not wished for at all.
    """

    add_keys_to_agent: tuple[str, int]
    address_family: str
    agent_public_key: str | None
    batch_mode: bool
    bind_address: str | None
    bind_interface: str | None
    ca_signature_algorithms: str
    canonical_domains: tuple[str, ...]
    canonicalize_fallback_local: bool
    canonicalize_hostname: str
    canonicalize_max_dots: int
    certificate_files: tuple[str, ...]
    channel_timeouts: tuple[str, ...]
    check_host_ip: bool
    ciphers: str
    clear_all_forwardings: bool
    compression: str
    congestion_control: str
    """bbr, cubic"""
    config_dir: str
    connect_timeout: int | None
    connection_attempts: int
    control_master: str
    control_path: str | None
    control_persist: tuple[bool, int]
    enable_escape_commandline: bool
    enable_ssh_keysign: bool
    escape_char: int | None
    exit_on_forward_failure: bool
    fingerprint_hash: str
    follow_symlinks: bool
    force_pty: bool
    fork_after_authentication: bool
    forward_agent: bool
    forward_agent_path: str | None
    forward_x11: bool
    forward_x11_timeout: int
    forward_x11_trusted: bool
    gateway_ports: bool
    global_known_hosts_files: tuple[str, ...]
    gssapi_authentication: bool
    gssapi_client_identity: str | None
    gssapi_delegate_credentials: bool
    gssapi_kex_algorithms: str
    gssapi_key_exchange: bool
    gssapi_renewal_forces_rekey: bool
    gssapi_server_identity: str | None
    gssapi_trust_dns: bool
    hash_known_hosts: bool
    host_key_algorithms: str
    host_key_alias: str | None
    hostbased_accepted_algorithms: str
    hostbased_authentication: bool
    hostname: str
    identities_only: bool
    identity_agent: str | None
    identity_files: tuple[str, ...]
    ignore_unknown: str | None
    insecure: bool
    ip_qos: tuple[int | None, int | None]
    jump_hosts: tuple[JumpHost, ...]
    kbd_interactive_authentication: bool
    kbd_interactive_devices: str | None
    kex_algorithms: str
    key_log: str | None
    known_hosts_command: str | None
    local_command: str | None
    local_forwards: tuple[Forward, ...]
    log_level: int
    log_verbose: tuple[str, ...]
    macs: str
    no_host_authentication_for_localhost: bool
    number_of_password_prompts: int
    obscure_keystroke_interval: int
    oidc_config: str | None
    password_authentication: bool
    path_expander: Callable[[str], str]
    permit_local_command: bool
    permit_remote_open: tuple[str, ...]
    permitted_cnames: tuple[tuple[str, str], ...]
    pkce: bool
    pkcs11_provider: str | None
    port: int
    preferred_authentications: str | None
    proxy_command: str | None
    proxy_jump: str | None
    proxy_use_fdpass: bool
    pubkey_accepted_algorithms: str
    pubkey_authentication: str
    quic_port: int
    recursive: bool
    refuse_connection: None
    rekey_interval: int
    rekey_limit: int
    remote_command: str | None
    remote_forwards: tuple[Forward, ...]
    request_tty: str
    required_rsa_size: int
    revoked_host_keys: tuple[str, ...]
    security_key_provider: str | None
    send_env: tuple[str, ...]
    server_alive_count_max: int
    server_alive_interval: int
    server_certificate: str | None
    session_type: str
    set_env: tuple[str, ...]
    stdin_null: bool
    stdio_forward: Forward | None
    stream_local_bind_mask: int
    stream_local_bind_unlink: bool
    strict_host_key_checking: str
    syslog_facility: str
    tag: str | None
    tcp_keep_alive: bool
    tokens: Tokens
    transport: str
    tunnel: str
    tunnel_device: tuple[int, int]
    udp_proxy_jump: str | None
    update_host_keys: str
    url_path: str
    url_path_is_default: bool
    use_oidc: str | None
    use_password: bool
    user: str
    user_known_hosts_files: tuple[str, ...]
    verify_host_key_dns: str
    version_addendum: str | None
    visual_host_key: bool
    warn_weak_crypto: str
    xauth_location: str

    def __init__(self, settings: Settings) -> None:
        self.__dict__.update(settings)

    def expand_path(self, path: str) -> str:
        """A path of identity_files or certificate_files, which are kept as written, as a name."""
        return self.path_expander(path)


def level_name(level: int) -> str:
    """The name that OpenSSH prints for a log level: the first of those that mean it."""
    if level >= DEBUG1 + 1:
        return f"DEBUG{level - DEBUG1 + 1}"
    return next(name for name, value in LOG_LEVELS.items() if value == level)
