"""Run by itself, as root, in namespaces of its own (`unshare --net --mount`): a real sshd and ssh.

Reads cases from standard input and writes what ssh said and asked to standard output, both as JSON.
Hosts have names here that resolve to addresses outside 127/8, which ssh would treat as local.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ADDRESS = "10.9.9.9"
HOST = "hosta"
PORTS = (22, 21722)

ASKPASS = """#!/bin/sh
printf '%s\\0' "$1" >> "$PROMPTS"
[ -s "$ANSWERS" ] || exit 1
head -n 1 "$ANSWERS"
sed -i 1d "$ANSWERS"
"""


def prepare(folder: Path, host_keys: list[str]) -> subprocess.Popen[bytes]:
    """The network, the names, and a listening sshd."""
    for command in (
        ["ip", "link", "set", "lo", "up"],
        ["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"],
        ["mount", "-t", "tmpfs", "none", "/run"],
    ):
        subprocess.run(command, check=True)
    os.mkdir("/run/sshd", 0o755)  # sshd's empty directory
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{ADDRESS} {HOST}\n")
    subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)
    askpass = folder / "askpass"
    askpass.write_text(ASKPASS)
    askpass.chmod(0o755)
    options = [f"Port {port}" for port in PORTS]
    options += [f"HostKey {path}" for path in host_keys]
    options += ["UsePAM no", "PidFile none", "MaxStartups 100"]
    config = folder / "sshd_config"
    config.write_text("\n".join(options))
    sshd = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/local/sbin") or "sshd"
    process = subprocess.Popen([sshd, "-D", "-e", "-f", config], stderr=subprocess.PIPE)
    await_listening(process)
    return process


def await_listening(process: subprocess.Popen[bytes]) -> None:
    assert process.stderr is not None
    heard = b""
    while heard.count(b"Server listening") < 2 * len(PORTS):  # IPv4 and IPv6
        ready, _, _ = select.select([process.stderr], [], [], 20)
        part = os.read(process.stderr.fileno(), 4096) if ready else b""
        if not part:
            raise SystemExit(f"sshd does not listen: {heard!r}")
        heard += part


def run_case(folder: Path, case: dict[str, Any]) -> dict[str, Any]:
    known, prompts, answers = (folder / name for name in ("known_hosts", "prompts", "answers"))
    known.write_text(case["known"])
    prompts.write_text("")
    answers.write_text("".join(f"{answer}\n" for answer in case["answers"]))
    options = {
        "UserKnownHostsFile": known,
        "GlobalKnownHostsFile": "/dev/null",
        "PreferredAuthentications": "none",
        "UpdateHostKeys": "no",
        "HostKeyAlgorithms": "ssh-ed25519",
        **case["options"],
    }
    words = [f"-o{name}={value}" for name, value in options.items()]
    run = subprocess.run(
        ["ssh", "-F", "none", *words, "-p", str(case["port"]), HOST, "true"],
        env={
            **os.environ,
            "SSH_ASKPASS": str(folder / "askpass"),
            "SSH_ASKPASS_REQUIRE": "force",
            "PROMPTS": str(prompts),
            "ANSWERS": str(answers),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return {
        "said": run.stderr.replace("\r", ""),
        "asked": prompts.read_text().split("\0")[:-1],
        "known": known.read_text(),
    }


def main() -> None:
    work = json.load(sys.stdin)
    folder = Path(work["folder"])
    process = prepare(folder, work["host_keys"])
    try:
        results = [run_case(folder, case) for case in work["cases"]]
    finally:
        process.terminate()
        process.communicate()
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
