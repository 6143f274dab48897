"""Process: monitor [root] makes it, session leader [the user] keeps it: what a login may do.

All that was decided while somebody authenticated, in one value. The leader never asks the network
process what is allowed.
"""


from sshoq.auth.authorized_keys import KeyRights
from sshoq.named_tuple import NamedTuple
from sshoq.server.account import Account
from sshoq.server.config import LoginConfig
from sshoq.server.connection import ConnectionFacts

INTERNAL_SFTP = "internal-sftp"


class LoginRights(NamedTuple):
    account: Account
    connection: ConnectionFacts
    config: LoginConfig
    key: KeyRights | None
    """The options of the key that got the user in; None after a password."""
    authentication: str
    """How it was done, in the words of SSH_USER_AUTH."""
    must_change_password: bool
    """Nothing may run but passwd."""
    pam_environment: tuple[bytes, ...] = ()
    messages: str = ""
    """What PAM modules said, for the terminal."""

    @property
    def forced_command(self) -> str | None:
        """sshd_config goes before the key."""
        if self.config.force_command is not None:
            return self.config.force_command
        return self.key.command if self.key is not None else None

    @property
    def allows_pty(self) -> bool:
        return self.config.permit_tty and (self.key is None or self.key.pty)

    @property
    def allows_user_rc(self) -> bool:
        # Not with a ForceCommand of the administrator's, which must be the only thing that runs.
        return (
            self.config.permit_user_rc
            and self.config.force_command is None
            and (self.key is None or self.key.user_rc)
        )
