"""What everything that happens in a conversation after the login works with: forwardings, and the
clients that share it.
"""

from typing import TYPE_CHECKING

from sshoq.client.log import Log
from sshoq.client.opening import ClientConversation
from sshoq.config.options import Options
from sshoq.named_tuple import NamedTuple

if TYPE_CHECKING:
    from sshoq.client.display import ForwardedDisplay


class RunContext(NamedTuple):
    """Of one run of the client."""

    client: ClientConversation
    options: Options
    log: Log
    agent: str | None = None
    """Where the agent listens that the server's side may use."""
    display: "ForwardedDisplay | None" = None
    """The display that it may use."""
