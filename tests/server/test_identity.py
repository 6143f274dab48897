"""The server's key and certificate."""

import os
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from sshoq.auth.certificates import read_leaf
from sshoq.auth.host_key_proof import MAX_KEYS, are_proven
from sshoq.auth.keys import parse_public_key
from sshoq.auth.private_keys import PrivateKey
from sshoq.server import identity as server_identity
from sshoq.server import log
from sshoq.server.config_reader import load
from sshoq.server.identity import (
    Identity,
    IdentityError,
    ShownKey,
    ensure_certificate,
    load_identity,
)

CONTENT = b"content"
KINDS = ("rsa", "ecdsa", "ed25519")
DIGESTS: dict[int, hashes.HashAlgorithm] = {
    **dict.fromkeys((0x0804, 0x0403), hashes.SHA256()),
    **dict.fromkeys((0x0805, 0x0503), hashes.SHA384()),
    **dict.fromkeys((0x0806, 0x0603), hashes.SHA512()),
}


def make_key(directory: Path, kind: str, *options: str) -> Path:
    path = directory / kind
    bits = ["-b", "2048"] if kind == "rsa" else []  # a longer one takes seconds to make
    command = ["ssh-keygen", "-q", "-t", kind, *bits, *options, "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)
    return path


def identify(*lines: str) -> Identity:
    return load_identity(load(None, lines))


def only(identity: Identity) -> ShownKey:
    (key,) = identity.keys
    return key


def sources(identity: Identity) -> list[str]:
    return [key.source for key in identity.keys]


def verify(identity: Identity, scheme: int) -> None:
    """The way a TLS client would that is shown the scheme's certificate."""
    (shown,) = [key for key in identity.keys if scheme in key.schemes]
    key = x509.load_der_x509_certificate(shown.certificates[0]).public_key()
    signature = identity.sign(scheme, CONTENT)
    if isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(signature, CONTENT)
    elif isinstance(key, rsa.RSAPublicKey):
        digest = DIGESTS[scheme]
        pss = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
        key.verify(signature, CONTENT, pss, digest)
    else:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(signature, CONTENT, ec.ECDSA(DIGESTS[scheme]))


@pytest.mark.parametrize(
    ("kind", "options", "schemes"),
    [
        ("ed25519", [], (0x0807,)),
        ("rsa", [], (0x0804, 0x0805, 0x0806)),
        ("ecdsa", ["-b", "256"], (0x0403,)),
        ("ecdsa", ["-b", "384"], (0x0503,)),
        ("ecdsa", ["-b", "521"], (0x0603,)),
    ],
)
def test_a_host_key_signs_with_the_schemes_of_its_kind(
    tmp_path: Path, kind: str, options: list[str], schemes: tuple[int, ...]
) -> None:
    path = make_key(tmp_path, kind, *options)
    identity = identify(f"HostKey {path}")
    assert only(identity).schemes == schemes
    for scheme in schemes:
        verify(identity, scheme)
    for scheme in {0x0807, 0x0804, 0x0403, 0x0503, 0x0603, 0x0401, 0} - set(schemes):
        with pytest.raises(ValueError, match="does not fit"):
            identity.sign(scheme, CONTENT)


def test_the_certificate_shows_the_ssh_key_and_is_the_same_at_each_start(tmp_path: Path) -> None:
    path = make_key(tmp_path, "ed25519")
    first, second = (only(identify(f"HostKey {path}")) for _ in range(2))
    assert first.certificates == second.certificates
    shown = read_leaf(first.certificates[0]).key
    public = path.with_suffix(".pub").read_text().split()
    assert [shown.algorithm, shown.base64] == public[:2]
    assert first.fingerprint.startswith("ssh-ed25519 SHA256:")


def test_all_keys_are_shown_ed25519_first_whatever_the_order(tmp_path: Path) -> None:
    rsa_key, ecdsa_key, ed25519_key = (make_key(tmp_path, kind) for kind in KINDS)
    lines = [f"HostKey {path}" for path in (rsa_key, ecdsa_key, ed25519_key)]
    identity = identify(*lines)
    assert sources(identity) == [str(ed25519_key), str(ecdsa_key), str(rsa_key)]
    assert not identity.prefers_first
    assert sources(identify(*lines, "HostKeyAlgorithms rsa-sha2-*")) == [str(rsa_key)]
    with pytest.raises(IdentityError, match="no hostkeys available"):
        identify(lines[0], "HostKeyAlgorithms ssh-ed25519")


def test_each_scheme_is_signed_by_the_one_key_that_it_is_for(tmp_path: Path) -> None:
    identity = identify(*(f"HostKey {make_key(tmp_path, kind)}" for kind in KINDS))
    for scheme in (0x0807, 0x0403, 0x0804, 0x0805, 0x0806):
        verify(identity, scheme)
    for scheme in (0x0503, 0x0603, 0x0401, 0):
        with pytest.raises(ValueError, match="does not fit"):
            identity.sign(scheme, CONTENT)
    identity.forget_keys()
    with pytest.raises(ValueError, match="does not fit"):
        identity.sign(0x0807, CONTENT)


def test_of_two_keys_of_one_kind_the_first_is_shown(tmp_path: Path) -> None:
    paths = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        paths.append(make_key(tmp_path / name, "ecdsa"))
    assert sources(identify(*(f"HostKey {path}" for path in paths))) == [str(paths[0])]


def test_a_key_too_short_for_tls_is_reported_and_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key of 2048 bits is used here as the short one, for its speed."""
    monkeypatch.setattr(server_identity, "MIN_RSA_BITS", 2049)
    short, good = make_key(tmp_path, "rsa"), make_key(tmp_path, "ecdsa")
    log.to_stderr(log.INFO)
    assert sources(identify(f"HostKey {short}", f"HostKey {good}")) == [str(good)]
    assert capfd.readouterr().err == f"Host key {short}: Invalid key length\n"
    with pytest.raises(IdentityError, match="no hostkeys available"):
        identify(f"HostKey {short}")


def test_a_key_that_others_can_read_is_refused_in_sshds_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = make_key(tmp_path, "ed25519")
    path.chmod(0o644)
    log.to_stderr(log.INFO)
    with pytest.raises(IdentityError, match="no hostkeys available -- exiting"):
        identify(f"HostKey {path}")
    lines = capfd.readouterr().err.splitlines()
    assert lines[3] == f"Permissions 0644 for '{path}' are too open."
    assert lines[-2:] == [
        f'Unable to load host key "{path}": bad permissions',
        f"Unable to load host key: {path}",
    ]


def test_one_bad_key_among_good_ones_is_only_reported(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = make_key(tmp_path, "ecdsa")
    log.to_stderr(log.INFO)
    assert sources(identify("HostKey /nowhere", f"HostKey {path}")) == [str(path)]
    assert capfd.readouterr().err == "Unable to load host key: /nowhere\n"


def test_sshds_keys_are_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [make_key(tmp_path, kind) for kind in ("ecdsa", "rsa")]
    paths = (str(tmp_path / "none"), *map(str, keys))
    monkeypatch.setattr(server_identity, "HOST_KEYS", paths)
    assert sources(identify()) == [str(path) for path in keys]


def test_without_any_key_one_is_made_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_identity, "HOST_KEYS", ())
    monkeypatch.setattr(server_identity, "own_directory", lambda: str(tmp_path / "state"))
    first = only(identify())
    assert only(identify()).certificates == first.certificates
    assert Path(first.source).stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path / "state")) == [
        "ssh_host_ed25519_key",
        "ssh_host_ed25519_key.pub",
    ]
    subprocess.run(["ssh-keygen", "-yf", first.source], check=True, capture_output=True)


def test_no_key_is_made_for_a_server_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has taken the keys away may put others there: ssh-keygen -A, say."""
    monkeypatch.setattr(server_identity, "HOST_KEYS", ())
    monkeypatch.setattr(server_identity, "own_directory", lambda: str(tmp_path / "state"))
    with pytest.raises(IdentityError, match="no hostkeys available"):
        load_identity(load(None, []), may_make=False)
    assert not (tmp_path / "state").exists()
    made = only(identify())
    kept = only(load_identity(load(None, []), may_make=False))
    assert kept.certificates == made.certificates


def test_a_users_own_key_is_with_the_users_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert server_identity.own_directory() == "/state/sshoq"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/u")
    assert server_identity.own_directory() == "/home/u/.local/state/sshoq"


# --------------------------------------------------------------------------- PEM files


def test_a_pair_is_made_when_both_are_missing(tmp_path: Path) -> None:
    certificate, key = str(tmp_path / "c"), str(tmp_path / "k")
    ensure_certificate(certificate, key)
    before = Path(certificate).read_bytes()
    ensure_certificate(certificate, key)
    assert Path(certificate).read_bytes() == before
    identity = identify(f"Certificate {certificate}", f"CertificateKey {key}")
    verify(identity, 0x0807)
    loaded = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    assert isinstance(loaded, ed25519.Ed25519PrivateKey)


@pytest.mark.parametrize("present", ["c", "k"])
def test_half_a_pair_is_left_alone(tmp_path: Path, present: str) -> None:
    (tmp_path / present).write_text("precious")
    with pytest.raises(IdentityError, match="not overwriting"):
        ensure_certificate(str(tmp_path / "c"), str(tmp_path / "k"))
    assert os.listdir(tmp_path) == [present]


@pytest.mark.parametrize(
    ("certificate", "key", "complaint"),
    [
        ("no/c", "k", "/no/c: No such file or directory"),
        ("c", "no/k", "/no/k: No such file or directory"),
        ("same", "same", "/same: File exists"),
    ],
)
def test_a_pair_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, certificate: str, key: str, complaint: str
) -> None:
    with pytest.raises(IdentityError) as caught:
        ensure_certificate(str(tmp_path / certificate), str(tmp_path / key))
    assert caught.value.lines == (f"{tmp_path}{complaint}",)
    assert os.listdir(tmp_path) == []


def test_the_whole_chain_is_shown(tmp_path: Path) -> None:
    ensure_certificate(str(tmp_path / "c"), str(tmp_path / "k"))
    ensure_certificate(str(tmp_path / "c2"), str(tmp_path / "k2"))
    chain = (tmp_path / "c").read_bytes() + (tmp_path / "c2").read_bytes()
    (tmp_path / "chain").write_bytes(chain)
    identity = identify(f"Certificate {tmp_path}/chain", f"CertificateKey {tmp_path}/k")
    assert len(only(identity).certificates) == 2


def test_a_certificate_is_for_everybody_and_host_keys_are_for_the_rest(tmp_path: Path) -> None:
    certificate, key = str(tmp_path / "c"), str(tmp_path / "k")
    ensure_certificate(certificate, key)
    pair = (f"Certificate {certificate}", f"CertificateKey {key}")
    assert sources(identify(*pair)) == [key]
    host_keys = [make_key(tmp_path, kind) for kind in ("ed25519", "rsa")]
    identity = identify(*pair, *(f"HostKey {path}" for path in host_keys))
    assert identity.prefers_first
    assert sources(identity) == [key, str(host_keys[1])]  # one Ed25519 key can be shown
    verify(identity, 0x0807)


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    ensure_certificate(str(tmp_path / "c"), str(tmp_path / "k"))
    ensure_certificate(str(tmp_path / "c2"), str(tmp_path / "k2"))
    with pytest.raises(IdentityError, match="is not the key of"):
        identify(f"Certificate {tmp_path}/c", f"CertificateKey {tmp_path}/k2")


@pytest.mark.parametrize(
    ("certificate", "message"), [("none", "No such file"), ("junk", "no certificate in PEM form")]
)
def test_an_unusable_certificate_is_named(tmp_path: Path, certificate: str, message: str) -> None:
    ensure_certificate(str(tmp_path / "c"), str(tmp_path / "k"))
    (tmp_path / "junk").write_text("junk")
    with pytest.raises(IdentityError, match=message):
        identify(f"Certificate {tmp_path}/{certificate}", f"CertificateKey {tmp_path}/k")


def test_keys_that_are_not_shown_can_be_proven_all_the_same(tmp_path: Path) -> None:
    """The next key of a kind, which clients are to learn before it takes the first one's place."""
    paths = []
    for name in ("present", "next"):
        (tmp_path / name).mkdir()
        paths.append(make_key(tmp_path / name, "ed25519"))
    paths.append(make_key(tmp_path, "rsa"))
    identity = identify(*(f"HostKey {path}" for path in (*paths, paths[0])))
    keys = [parse_public_key(Path(f"{path}.pub").read_text()) for path in paths]
    assert sources(identity) == [str(paths[0]), str(paths[2])]
    assert list(identity.host_keys) == [keys[0].blob, keys[1].blob, keys[2].blob]
    conversation_id = bytes(range(32))
    proofs = [identity.prove(key.blob, conversation_id) for key in keys]
    assert are_proven(keys, proofs, conversation_id)
    identity.forget_keys()
    assert identity.host_keys == ()
    with pytest.raises(ValueError, match="none of the host's"):
        identity.prove(keys[0].blob, conversation_id)


def test_of_very_many_keys_only_so_many_are_told(tmp_path: Path) -> None:
    keys = [PrivateKey(ed25519.Ed25519PrivateKey.generate()) for _ in range(MAX_KEYS + 1)]
    identity = Identity([ShownKey((b"certificate",), key, "file") for key in keys])
    assert identity.host_keys == tuple(key.public_key.blob for key in keys[:MAX_KEYS])
