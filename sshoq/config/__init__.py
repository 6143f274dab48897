"""Wishes: OpenSSH keywords, configuration files, flags and forwarding specifications; all pure."""
