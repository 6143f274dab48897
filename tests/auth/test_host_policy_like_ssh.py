"""The decision about a host beside the real ssh: same words, questions, and file afterwards."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sshoq.auth.certificates import make_host_certificate
from sshoq.auth.host_policy import DEBUG, HostPolicy, judge_host
from sshoq.auth.known_hosts import KnownHosts
from sshoq.auth.private_keys import load_private_key
from tests.auth import ssh_in_namespace
from tests.auth.keyring import make_key, public_line
from tests.needs import need_root, need_tools

HOST, ADDRESS = ssh_in_namespace.HOST, ssh_in_namespace.ADDRESS
ASIDE = ssh_in_namespace.PORTS[1]


class Case(NamedTuple):
    """A known_hosts file, in which {host}, {rsa}, {ecdsa}, {other} stand for keys, and wishes."""

    known: str = ""
    port: int = 22
    answers: tuple[str, ...] = ("yes",)
    options: dict[str, str] = {}  # noqa: RUF012 - a value of a frozen tuple, never changed


HASHED = "|1|KxvNcMPZyb6/E23OokWl9zIt1Wk=|MAzQEpvwNLa89ElKGRL5eV4+4HE="
STRICT = {mode: {"StrictHostKeyChecking": mode} for mode in ("yes", "no", "accept-new", "off")}
CHECK_IP = {"CheckHostIP": "yes"}
ADDRESS_DIFFERS = "hosta {host}\n10.9.9.9 {other}\n"

CASES = {
    "new host, yes": Case(),
    "new host, no": Case(answers=("no",)),
    "new host, YES with blanks": Case(answers=("  YES  of course",)),
    "new host, empty answer": Case(answers=("",)),
    "new host, nobody answers": Case(answers=()),
    "new host, odd answers then yes": Case(answers=("what", "maybe", "yes")),
    "new host, fingerprint": Case(answers=("{fingerprint}",)),
    "new host, wrong fingerprint then no": Case(answers=("SHA256:x", "no")),
    "new host on a port": Case(port=ASIDE),
    "new host, strict": Case(options=STRICT["yes"]),
    "new host on a port, strict": Case(port=ASIDE, options=STRICT["yes"]),
    "new host, accept-new": Case(options=STRICT["accept-new"]),
    "new host, no checking": Case(options=STRICT["no"]),
    "new host, checking off": Case(options=STRICT["off"]),
    "new host, names hashed": Case(options={"HashKnownHosts": "yes"}),
    "new host under an alias": Case(port=ASIDE, options={"HostKeyAlias": "Ali.As"}),
    "new host with a picture": Case(options={"VisualHostKey": "yes"}),
    "new host, MD5": Case(options={"FingerprintHash": "md5"}),
    "key known elsewhere": Case("xx {host}\n", port=ASIDE),
    "key known under hashed names": Case(f"a,b {{host}}\n{HASHED} {{host}}\n"),
    "key known under many names": Case("".join(f"name{n} {{host}}\n" for n in range(12))),
    "file without a last newline": Case("xx {other}"),
    "known host": Case("hosta {host}\n"),
    "known host, strict": Case("hosta {host}\n", options=STRICT["yes"]),
    "known host, upper case": Case("HOSTA {host}\n"),
    "known host with a picture": Case("hosta {host}\n", options={"VisualHostKey": "yes"}),
    "known host on a port": Case("[hosta]:21722 {host}\n", port=ASIDE, options=STRICT["yes"]),
    "known by ssh on its own port": Case("hosta {host}\n", port=ASIDE, options=STRICT["yes"]),
    "pattern with any port": Case("[hosta]:* {host}\n", port=ASIDE),
    "port 22 spelled out is no match": Case("[hosta]:22 {host}\n", answers=("no",)),
    "negated pattern": Case("!hosta,host* {host}\n", answers=("no",)),
    "one key of several": Case("hosta,*.x {other}\nhosta {rsa}\nhosta {host}\n"),
    "garbage and unknown markers": Case("hosta garbage A\n@foo hosta {other}\n  hosta {host}\n"),
    "authority does not vouch": Case("@cert-authority hosta {host}\n", answers=("no",)),
    "changed": Case("hosta {other}\n"),
    "changed, another type": Case("hosta {rsa}\nhosta {ecdsa}\n"),
    "changed on a port": Case("[hosta]:21722 {other}\nhosta {host}\n", port=ASIDE),
    "changed, accept-new": Case("hosta {other}\n", options=STRICT["accept-new"]),
    "changed, no checking": Case("hosta {other}\n", options=STRICT["no"]),
    "changed under an alias": Case("alias {other}\n", options={"HostKeyAlias": "alias"}),
    "ssh's key is another one": Case("hosta {other}\n", port=ASIDE, answers=("no",)),
    "revoked": Case("@revoked * {host}\n"),
    "revoked though known": Case("hosta {host}\n@revoked hosta {host}\n"),
    "revoked, no checking": Case("@revoked * {host}\n", options=STRICT["no"]),
    "another key revoked": Case("@revoked * {other}\nhosta {host}\n"),
    "address new": Case("hosta {host}\n", options=CHECK_IP),
    "address new, no newline": Case("hosta {host}", options=CHECK_IP),
    "address new on a port": Case("[hosta]:21722 {host}\n", port=ASIDE, options=CHECK_IP),
    "address new, ssh vouches": Case("hosta {host}\n", port=ASIDE, options=CHECK_IP),
    "address known": Case("hosta,10.9.9.9 {host}\n", options=CHECK_IP),
    "host and address new": Case("foo {host}\n", options=CHECK_IP),
    "host and address new, hashed": Case(
        options={**CHECK_IP, **STRICT["accept-new"], "HashKnownHosts": "yes"}
    ),
    "host new, address known": Case("10.9.9.9 {host}\n", options=CHECK_IP),
    "host new, address differs": Case("10.9.9.9 {other}\n", options=CHECK_IP),
    "address differs, yes": Case(ADDRESS_DIFFERS, options=CHECK_IP),
    "address differs, no": Case(ADDRESS_DIFFERS, answers=("no",), options=CHECK_IP),
    "address differs, odd answer": Case(ADDRESS_DIFFERS, answers=("x", "no"), options=CHECK_IP),
    "address differs, strict": Case(ADDRESS_DIFFERS, options={**CHECK_IP, **STRICT["yes"]}),
    "address differs, unchecked": Case(ADDRESS_DIFFERS, options={**CHECK_IP, **STRICT["no"]}),
    "both changed alike": Case("hosta {other}\n10.9.9.9 {other}\n", options=CHECK_IP),
    "both changed apart": Case("hosta {other}\n10.9.9.9 {rsa}\n", options=CHECK_IP),
    "host changed, address not": Case("hosta {other}\n10.9.9.9 {host}\n", options=CHECK_IP),
    "host changed, address unknown": Case("hosta {other}\n", options=CHECK_IP),
}


class Scene:
    """The keys, and what ssh did in every case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        types = {"host": "ed25519", "other": "ed25519", "rsa": "rsa", "ecdsa": "ecdsa-256"}
        paths = {name: make_key(folder, kind, name=name) for name, kind in types.items()}
        self.key = load_private_key(str(paths["host"]))
        self.words = {name: public_line(path) for name, path in paths.items()}
        self.words["fingerprint"] = self.key.public_key.fingerprint()
        work = {
            "folder": str(folder),
            "host_keys": [str(paths["host"])],
            "cases": [self.filled(case)._asdict() for case in CASES.values()],
        }
        command = ["unshare", "--net", "--mount", sys.executable, ssh_in_namespace.__file__]
        run = subprocess.run(
            command, input=json.dumps(work), capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        self.results = dict(zip(CASES, json.loads(run.stdout), strict=True))

    def filled(self, case: Case) -> Case:
        answers = tuple(answer.format(**self.words) for answer in case.answers)
        return case._replace(known=case.known.format(**self.words), answers=answers)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    need_root()
    need_tools("unshare", "ip", "mount", "sshd", "ssh", "ssh-keygen")
    return Scene(tmp_path_factory.mktemp("scene"))


def decide(scene: Scene, case: Case) -> dict[str, Any]:
    """Ours, in the same folder with the same files."""
    known_hosts = scene.folder / "known_hosts"
    known_hosts.write_text(case.known)
    answers = iter(case.answers)
    asked: list[str] = []
    said: list[str] = []

    def ask(prompt: str) -> str | None:
        asked.append(prompt)
        return next(answers, None)

    def tell(level: str, text: str) -> None:
        if level != DEBUG:
            said.append(text + "\n")

    options = case.options
    policy = HostPolicy(
        HOST,
        case.port,
        ADDRESS,
        strict=options.get("StrictHostKeyChecking", "ask"),
        alias=options.get("HostKeyAlias"),
        user_files=[str(known_hosts)],
        global_files=["/dev/null"],
        hash_known_hosts=options.get("HashKnownHosts") == "yes",
        visual_host_key=options.get("VisualHostKey") == "yes",
        fingerprint_hash=options.get("FingerprintHash", "sha256"),
        check_host_ip=options.get("CheckHostIP") == "yes",
        exposed=["Password authentication", "Keyboard-interactive authentication"],
    )
    known = KnownHosts.from_files([*policy.user_files, *policy.global_files])
    verdict = judge_host(
        [make_host_certificate(scene.key)], policy, known, ask=ask, tell=tell, now=0.0
    )
    if verdict.accepted:
        said.append("root@hosta: Permission denied (publickey,password,keyboard-interactive).\n")
    return {"said": "".join(said), "asked": asked, "known": known_hosts.read_text()}


def as_of_10_5(result: dict[str, Any]) -> dict[str, Any]:
    """What the installed ssh does otherwise: an older question, Debian's advice how to remove, and
    a last line that it does not end before it appends."""
    last_line = re.compile(r"(ssh-ed25519 \S{68})(?=\S)")
    fingerprint = re.compile(r"key fingerprint is:? ((?:SHA256|MD5):\S+?)\.?\n")
    return {
        "asked": [fingerprint.sub(r"key fingerprint is: \1\n", text) for text in result["asked"]],
        "said": re.sub(
            r"Permission denied \(.*\)",
            "Permission denied",
            result["said"].replace("  remove with:\n", "").replace("  ssh-keygen -f", "\0"),
        ),
        "known": re.sub(r"\|1\|\S+", "(hashed)", last_line.sub(r"\1\n", result["known"])),
    }


def without_advice(result: dict[str, Any]) -> dict[str, Any]:
    return {**result, "said": re.sub("\0.*\n", "", result["said"])}


@pytest.mark.xdist_group("ssh in a namespace")  # one scene serves every case
@pytest.mark.privileged
@pytest.mark.parametrize("name", CASES)
def test_decision_is_the_one_of_ssh(scene: Scene, name: str) -> None:
    ours = decide(scene, scene.filled(CASES[name]))
    assert without_advice(as_of_10_5(ours)) == without_advice(as_of_10_5(scene.results[name]))
