"""QUIC: the one file that knows the library, and the async objects around it."""
