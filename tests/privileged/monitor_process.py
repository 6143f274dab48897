"""A monitor in a process of its own, as main would fork it. Run by monitor_driver.py."""

import os
import pwd
import socket
import sys

from sshoq.auth.private_keys import load_private_key
from sshoq.server import log
from sshoq.server.authentication import preload
from sshoq.server.config_reader import load
from sshoq.server.connection import ConnectionFacts
from sshoq.server.identity import Identity, ShownKey
from sshoq.server.monitor import run_monitor


def main() -> int:
    preload()
    config_file, key_file, user, to_network, to_main = sys.argv[1:]
    config = load(config_file)
    log.to_stderr(log.LEVELS[config.log_level])
    files = [key_file, *config.host_key]
    keys = [ShownKey((b"certificate",), load_private_key(file), file) for file in files]
    identity = Identity(keys)
    network, main = (socket.socket(fileno=int(number)) for number in (to_network, to_main))
    network.set_inheritable(False)
    main.set_inheritable(False)
    os.setsid()
    if user:  # everything is loaded, so it does not matter what that user may read
        entry = pwd.getpwnam(user)
        os.initgroups(user, entry.pw_gid)
        os.setresgid(*[entry.pw_gid] * 3)
        os.setresuid(*[entry.pw_uid] * 3)
    facts = ConnectionFacts("192.0.2.7", 40007, "192.0.2.1", 443)
    return run_monitor(network, main, config, identity, facts)


if __name__ == "__main__":
    sys.exit(main())
