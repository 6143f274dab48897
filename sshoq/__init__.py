"""ssh over QUIC: a client that is `ssh` to its user and a server that is `sshd` to its
administrator.

Below, they speak the SSH3 dialect of h4sh5/sshoq (QUIC, TLS 1.3, HTTP/3) instead of SSHv2 over TCP.
"""

__version__ = "0.1.0"
