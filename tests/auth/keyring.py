"""Keys for the tests of this folder, made by ssh-keygen."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.needs import need_tools

KEY_TYPES = ("ed25519", "rsa", "ecdsa-256", "ecdsa-384", "ecdsa-521")


def make_key(
    folder: Path, key_type: str, *options: str, name: str = "", passphrase: str = ""
) -> Path:
    """A new private key file; its public half stands beside it with `.pub`."""
    need_tools("ssh-keygen")
    kind, _, bits = key_type.partition("-")
    path = folder / (name or key_type)
    size = ["-b", bits or ("2048" if kind == "rsa" else "256")]
    command = ["ssh-keygen", "-q", "-t", kind, *size, "-N", passphrase, *options, "-f", str(path)]
    subprocess.run(command, check=True)
    return path


def public_line(private: Path) -> str:
    """The public half, without its comment."""
    return " ".join(private.with_name(private.name + ".pub").read_text().split()[:2])


def make_certificate(authority: Path, public: Path, *options: str, key_id: str = "me") -> Path:
    """Signed by ssh-keygen; `public` is the `.pub` file. Beside it, with `-cert.pub`."""
    subprocess.run(
        ["ssh-keygen", "-q", "-s", str(authority), "-I", key_id, *options, str(public)], check=True
    )
    return public.with_name(public.name.removesuffix(".pub") + "-cert.pub")
