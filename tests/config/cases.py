"""Cases for the comparison with OpenSSH: systematic, random with fixed seeds, hand-written."""

import random
from collections.abc import Iterator

from sshoq.config.keywords import ALIASES, DEPRECATED, KEYWORDS, UNSUPPORTED
from tests.config.oracle import Case

SEED = 20260805

# Values by what they are good for; every keyword meets most of them.
VALUES = (
    "yes", "no", "YES", "true", "False", "ask", "auto", "autoask", "accept-new", "off", "always",
    "none", "None", "any", "force", "confirm", "confirm 10m", "5", "0", "-1", "+7", "007",
    "2147483648", "x", "http", "65536", "1h30m", "90", "1w", "10x", "", '""', "'a b'", '"a b" c',
    "a b", "a\\ b", "#comment", "a#b", "a #b", "~/f", "/p/%h", "/p/%d-%u", "${HOME}/x",
    "${UNSET_VARIABLE}", "$HOME", "%x", "%", "a,b", "aes128-ctr", "+aes128-cbc", "-aes*",
    "^aes256-ctr", "ssh-ed25519", "+ssh-rsa", "hmac-sha2-256", "curve25519-sha256", "inet",
    "inet6", "af21", "cs1 ef", "md5", "SHA512", "INFO", "debug3", "LOCAL3", "2222",
    "8080 host:80", "/s /t", "[::1]:8080 [::2]:90", "*:1 h:2", "host:22 other:*", "A=b",
    "LC_* LANG", "-LC_*", "1:2", "any:any", "ethernet", "point-to-point", "16M", "1K 10",
    "default none", "0177", "9", "^X", "~", "\\\\", "jump", "u@jump:22,second", "ssh://u@h:1",
    "example.com a.b", "*:*.x", "subsystem", "it's", '"open', "unbound", "host-bound", "=yes",
    "= yes", "internal",
)  # fmt: skip
TOKENS = [f"%{letter}" for letter in "%CdhikLlnprujHTz"]
TOKEN_KEYWORDS = (
    "ControlPath", "IdentityAgent", "ForwardAgent", "UserKnownHostsFile", "GlobalKnownHostsFile",
    "IdentityFile", "CertificateFile", "RemoteCommand", "LocalCommand", "ProxyCommand",
    "KnownHostsCommand", "HostName", "HostKeyAlias", "LocalForward", "RemoteForward",
)  # fmt: skip
HOSTS = (
    "web",
    "db1",
    "Web",
    "known",
    "10.1.2.3",
    "::1",
    "127.1",
    "a.b.c",
    "user@web",
    "ssh://u@web:99/",
)


def case(
    name: str,
    config: str | None,
    *argv: str,
    files: dict[str, str] | None = None,
    environ: dict[str, str] | None = None,
) -> Case:
    """A case with a ~/.ssh/config (None: without any)."""
    every = dict(files or {})
    if config is not None:
        every["config"] = config
    return Case(name=name, argv=["-G", *(argv or ("web",))], files=every, environ=environ or {})


def keyword_cases() -> Iterator[Case]:
    """Every keyword with a quarter of the values, another quarter for the next."""
    for index, keyword in enumerate(sorted((*KEYWORDS, *ALIASES, *DEPRECATED, *UNSUPPORTED))):
        for position, value in enumerate(VALUES):
            if position % 4 == index % 4:
                yield case(f"{keyword} {value}", f"{keyword} {value}\n")


def fitting_cases() -> Iterator[Case]:
    """Two lines of one keyword with values it takes: which wins, what accumulates."""
    good = {
        "addkeystoagent": ("ask", "confirm 1h", "no", "5m"),
        "addressfamily": ("inet", "inet6", "any"),
        "bindaddress": ("1.2.3.4", "::1"),
        "canonicaldomains": ("a.b C.d", "none", "x.y"),
        "canonicalizepermittedcnames": ("*.a:*.b c:d", "none"),
        "certificatefile": ("~/a", "~/b", "~/a"),
        "connecttimeout": ("none", "7", "1m"),
        "controlmaster": ("yes", "ask", "autoask", "no"),
        "controlpath": ("~/c-%r@%h:%p", "none", "/tmp/x"),
        "controlpersist": ("no", "yes", "5m", "0"),
        "dynamicforward": ("1080", "[::1]:1081", "1080"),
        "escapechar": ("none", "^B", "%"),
        "fingerprinthash": ("md5", "sha256"),
        "forwardagent": ("no", "/agent", "yes"),
        "globalknownhostsfile": ("/a /b", "none"),
        "gssapiclientidentity": ("me", "you"),
        "hostkeyalgorithms": ("ssh-ed25519", "+ssh-rsa", "^ssh-ed25519"),
        "hostname": ("%h.example.com", "OTHER", "::1"),
        "identityagent": ("none", "~/agent", "SSH_AUTH_SOCK"),
        "identityfile": ("~/.ssh/a", "none", "~/.ssh/a"),
        "ignoreunknown": ("foo*", "bar"),
        "ipqos": ("af21 cs1", "none", "ef"),
        "knownhostscommand": ("/bin/x %H", "none"),
        "localforward": ("80 a:1", "80 a:1", "[::1]:81 /s", "/l b:2"),
        "loglevel": ("verbose", "debug1", "fatal"),
        "macs": ("hmac-sha1", "-hmac-sha1", "+hmac-md5"),
        "permitremoteopen": ("a:1 [::1]:2", "any", "none"),
        "port": ("1", "65535", "http"),
        "proxycommand": ("nc %h %p", "none"),
        "proxyjump": ("a", "none", "u@b:2,c"),
        "pubkeyauthentication": ("unbound", "yes", "no"),
        "rekeylimit": ("1G", "1M 1h", "default none", "16 5"),
        "remotecommand": ("none", "echo %h", "tmux a"),
        "remoteforward": ("8080", "80 a:1", "0 a:1", "/s /t"),
        "requesttty": ("force", "no", "auto"),
        "revokedhostkeys": ("/krl", "none"),
        "sendenv": ("A B*", "-B*", "C A"),
        "setenv": ("A=1 A=2 B=3", "C=4"),
        "streamlocalbindmask": ("0700", "07"),
        "stricthostkeychecking": ("accept-new", "off", "yes", "ask"),
        "syslogfacility": ("AUTH", "local0"),
        "tunneldevice": ("1", "any:2", "3:4"),
        "tunnel": ("ethernet", "yes", "no"),
        "updatehostkeys": ("ask", "no", "yes"),
        "user": ("bob", "Alice"),
        "userknownhostsfile": ("/a ~/b", "none"),
        "verifyhostkeydns": ("yes", "ask", "no"),
    }
    for keyword, values in good.items():
        for first in values:
            for second in values:
                text = (
                    f"{keyword} {first}\nHost other\n{keyword} x\n"
                    if first == second
                    else (f"{keyword} {first}\nHost w*\n  {keyword}={second}\n")
                )
                yield case(f"{keyword}: {first}, {second}", text)
                yield case(
                    f"-o {keyword}: {first}",
                    f"{keyword} {second}\n",
                    "-o",
                    f"{keyword}={first}",
                    "web",
                )


def token_cases() -> Iterator[Case]:
    """Every keyword that expands with every token, with enough around it to tell tokens apart."""
    base = "Host web\n HostName real.example.com\n Port 2222\n User bob\n HostKeyAlias Alias\n"
    for keyword in TOKEN_KEYWORDS:
        for token in TOKENS:
            value = f"/x/{token}" if not keyword.endswith("Forward") else f"/x/{token} h:1"
            yield case(f"{keyword} {token}", f"{keyword} {value}\n{base}")
    for token in TOKENS:
        yield case(
            f"Match exec {token}", f'{base}Match exec "echo {token} >&2"\n IdentitiesOnly yes\n'
        )


def quoting_cases(count: int = 220) -> Iterator[Case]:
    """Random quoting, escapes, separators and comments."""
    chance = random.Random(SEED)
    pieces = (
        "a",
        "b",
        " ",
        "\t",
        '"',
        "'",
        "\\",
        "#",
        "=",
        "\\ ",
        '\\"',
        "\\'",
        "\\\\",
        "\r",
        "\f",
        "é",
        "x y",
    )
    for number in range(count):
        keyword = chance.choice(
            ("User", "HostName", "SetEnv", "UserKnownHostsFile", "ProxyCommand", "IdentityFile")
        )
        separator = chance.choice((" ", "=", " = ", "\t", "  ", "==", '"'))
        value = "".join(chance.choice(pieces) for _ in range(chance.randint(1, 8)))
        if keyword == "SetEnv":
            value = "A=" + value
        indent = chance.choice(("", "  ", "\t", "=", ' "'))
        yield case(f"quoting {number}", f"{indent}{keyword}{separator}{value}\nPort 7\n")


def block_cases(count: int = 420) -> Iterator[Case]:
    """Random files with Host, Match and Include, for random hosts and command lines."""
    chance = random.Random(SEED + 1)
    for number in range(count):
        files = {"config": _random_file(chance, 8), "extra": _random_file(chance, 4, include=False)}
        files["deep/one.conf"] = _random_file(chance, 3, include=False)
        files["deep/two.conf"] = _random_file(chance, 2, include=False)
        if chance.random() < 0.5:
            files["/etc/ssh/ssh_config"] = _random_file(chance, 5, include=False)
        argv = ["-G"]
        for _ in range(chance.randint(0, 2)):
            argv += chance.choice(
                (
                    ["-p", "99"], ["-l", "carl"], ["-o", "IdentityFile=o"], ["-4"], ["-J", "j"],
                    ["-t"], ["-o", "CanonicalizeHostname=yes"], ["-N"], ["-F", "/dev/null"],
                )
            )  # fmt: skip
        argv.append(chance.choice(HOSTS))
        argv += chance.choice(([], [], ["uptime"], ["ls", "-l  /"]))
        yield Case(name=f"blocks {number}", argv=argv, files=files, environ={})


_LINES = (
    "User bob", "Port 2222", "Port 80", "HostName %h.example.com", "HostName REAL",
    "IdentityFile ~/.ssh/a", "IdentityFile ~/.ssh/%h", "SendEnv A B*", "SendEnv -A",
    "SetEnv X=1 Y=2", "LocalForward 80 a:1", "RemoteForward 81 b:2", "DynamicForward 1080",
    "ProxyJump hop", "ProxyCommand nc %h", "ProxyJump none", "ForwardAgent yes",
    "ControlPath ~/c-%r@%h", "CanonicalizeHostname yes", "CanonicalDomains example.com",
    "CanonicalizeMaxDots 2", "CanonicalizePermittedCNAMEs *.example.com:*",
    "UserKnownHostsFile ~/k %h", "StrictHostKeyChecking no", "HostKeyAlias Alias",
    "ConnectTimeout 5", "ServerAliveInterval 1m", "LogLevel ERROR", "RequestTTY force",
    "Compression yes", "StreamLocalBindMask 0700", "SyslogFacility AUTH", "CertificateFile c",
    "IdentitiesOnly yes", "Bogus x", "UpdateHostKeys ask", "AddressFamily inet6",
    "AddressFamily inet", "GatewayPorts yes", "RekeyLimit 1M 1h", "CanonicalizeFallbackLocal no",
    "# only a comment", "", "VerifyHostKeyDNS yes", "PermitLocalCommand yes",
)  # fmt: skip
_BLOCKS = (
    "Host web", "Host *", "Host w* !web", "Host !db1 *", "Host *.example.com", "Host WEB",
    "Host 10.* ::1 127.*", "Host known", "Match all", "Match host web",
    "Match host *.example.com,db*", "Match originalhost web,Web", "Match user bob",
    "Match user root,bob", "Match localuser root", "Match !host web user root", "Match final",
    "Match canonical", "Match final host *.example.com", "Match canonical all",
    'Match exec "test %h = web"', 'Match exec "false" host web', "Match host !web,*",
    "Match !user bob", "Match final all", "match HOST=web", 'Match exec "test %p = 2222"',
    "Match host real", "Match host", "Match bogus x", "Host", 'Match user "bob"',
)  # fmt: skip


def _random_file(chance: random.Random, size: int, *, include: bool = True) -> str:
    lines = []
    for _ in range(chance.randint(1, size)):
        lines.append(chance.choice(_BLOCKS[: -5 if chance.random() < 0.93 else None]))
        for _ in range(chance.randint(0, 3)):
            line = chance.choice(_LINES)
            if line == "Bogus x" and chance.random() < 0.7:
                line = "IgnoreUnknown Bogus"
            lines.append("  " + line)
        if include and chance.random() < 0.3:
            lines.append(
                "Include "
                + chance.choice(
                    ("extra", "deep/*.conf", "~/.ssh/extra", "nothing*", "deep/o?e.conf extra")
                )
            )
    return "\n".join(lines) + "\n"


_FLAGS: tuple[tuple[str, ...], ...] = (
    ("-4",), ("-6",), ("-A",), ("-a",), ("-C",), ("-f",), ("-g",), ("-K",), ("-k",), ("-M",),
    ("-N",), ("-n",), ("-q",), ("-s",), ("-T",), ("-t",), ("-tt",), ("-X",), ("-x",), ("-Y",),
    ("-y",), ("-2",), ("-1",), ("-p", "22"), ("-p", "0"), ("-p", "ssh"), ("-p", "99999"),
    ("-l", "u"), ("-l", "b d"), ("-l", "-x"), ("-b", "1.2.3.4"), ("-B", "eth0"),
    ("-c", "aes128-ctr"), ("-c", "nope"), ("-c", "+aes128-cbc"), ("-m", "hmac-sha1"),
    ("-m", "+hmac-sha1"), ("-D", "1080"), ("-D", "[::1]:1080"), ("-D", "x"), ("-L", "80:h:81"),
    ("-L", "a:80:h:81"), ("-L", "/s:/t"), ("-L", "80"), ("-L", "*:80:[::1]:81"), ("-L", "80:/s"),
    ("-L", "0:h:1"), ("-L", ":80:h:81"), ("-L", "80:a\\:b:2"), ("-L", "80:h:81:"),
    ("-R", "80:h:81"), ("-R", "80"), ("-R", "0:h:1"), ("-R", "/s:h:1"), ("-R", "x"),
    ("-R", "h:90"), ("-W", "h:1"), ("-W", "[::1]:1"), ("-W", "h"), ("-W", "h:0"), ("-w", "1:2"),
    ("-w", "any"), ("-w", "x"), ("-e", "^A"), ("-e", "none"), ("-e", "xy"), ("-e", "%"),
    ("-S", "none"), ("-S", "~/x-%h"), ("-J", "j"), ("-J", "u@j:1,k"), ("-J", "none"),
    ("-J", "@j"), ("-J", "-x"), ("-J", "a'b"), ("-J", "j # c"), ("-i", "/nowhere"),
    ("-i", "/etc/passwd"), ("-i", "~/.ssh/key"), ("-I", "lib"), ("-E", "/tmp/nowhere"),
    ("-F", "none"), ("-F", "/nowhere"), ("-F", "/root/.ssh/extra"), ("-O", "check"),
    ("-O", "bogus"), ("-o", "Port=5"), ("-o", "port 5"), ("-o", "Bogus=1"), ("-o", "User"),
    ("-o", "User=x y"), ("-o", "#"), ("-o", "Host=x"), ("-o", "Match all"), ("-o", "Include x"),
    ("-o", "LogLevel=QUIET"), ("-o", "BatchMode=yes"), ("-o", "ProxyCommand=nc %h"),
    ("-o", "ProxyJump=j"), ("-o", "AddressFamily=inet6"), ("-o", "RequestTTY=no"),
    ("-o", "SessionType=subsystem"), ("-o", "SessionType=none"), ("-o", "StdinNull=yes"),
    ("-o", " = User=z"), ("-o", "RemoteCommand=x"), ("-o", "LocalForward=1 a:2"),
    ("-o", "ClearAllForwardings=yes"), ("-o", "User=\\x"), ("-o", "ForkAfterAuthentication=yes"),
    ("-o", "UpdateHostKeys=ask"), ("-o", "ControlMaster=yes"), ("-z",), ("-4Cgp", "7"),
    ("-4Cgp7",), ("-tTlu",), ("-oPort=9",), ("-NT",), ("--",), ("-GG",),
)  # fmt: skip
_DESTINATIONS = (
    "web", "u@web", "a@b@web", "@web", "u@", "", "ssh://web", "ssh://u@web:5", "ssh://u@web:5/",
    "ssh://web/p", "ssh://", "ssh://@web", "ssh://u;x=y@web", "ssh://a%20b@web", "ssh://a%2@web",
    "ssh://a+b@web", "ssh://web:0", "ssh://web:x", "ssh://we_b", "ssh://-web", "ssh://a..b",
    "SSH-web", "we'b", "we;b", "-", "w,b", "we b", "u'x@web", "u$x@web", "-x@web", "u\\@web",
    "WEB", "127.1", "::1", "[::1]", "0x7f.1", "fe80::1%lo", "1.2.3", "1.2.3.4.5", "web.", "wéb",
    "u -x@web", "127.0.0.01", "1", "0",
)  # fmt: skip


def flag_cases(count: int = 420) -> Iterator[Case]:
    """Every flag alone, every destination alone, and random command lines."""
    chance = random.Random(SEED + 2)
    files = {"config": "Host web\n User cfg\n", "extra": "Port 33\n", "key": "k"}
    for flag in (*_FLAGS, ("-p",), ("-Q",)):
        yield case(f"flag {flag}", None, *flag, "web", files=files)
        yield case(f"flag {flag} behind", None, "web", *flag, "run", files=files)
    for destination in _DESTINATIONS:
        yield case(f"destination {destination}", None, destination, files=files)
        yield case(
            f"destination {destination} with user", None, "-l", "me", destination, "x", files=files
        )
    for number in range(count):
        words = [word for _ in range(chance.randint(1, 4)) for word in chance.choice(_FLAGS)]
        words.append(chance.choice(("web", "u@web", "ssh://v@web:8")))
        words += [word for _ in range(chance.randint(0, 2)) for word in chance.choice(_FLAGS)]
        words += chance.choice(([], ["cmd"], ["cmd", "-p", "1"], ["--", "cmd"]))
        yield case(f"words {number}", None, *words, files=files)
    yield case("no destination", None, "-4")


def hand_written_cases() -> Iterator[Case]:
    """What users and upstream's own scripts do."""
    a = "/root/.ssh"
    canonical = "CanonicalizeHostname yes\nCanonicalDomains"
    yield case("loop of includes", "Include config\n")
    yield case("include without match", f"Include {a}/none* {a}/nope\nUser x\n")
    yield case(
        "include twice", "Include extra extra\n", files={"extra": "User e\nIdentityFile e\n"}
    )
    yield case("include ends its block", "Include extra\nUser x\n", files={"extra": "Host no\n"})
    yield case(
        "include in inactive block",
        "Host no\nInclude extra\nHost *\nPort 3\n",
        files={"extra": "Host *\nUser e\nMatch all\nUser f\n"},
    )
    yield case("bad include", "Include extra\nUser x y\n", files={"extra": "User\nBad x\n"})
    yield case("include with tilde", "Include ~/.ssh/extra\n", files={"extra": "User e\n"})
    yield case("system include with tilde", None, files={"/etc/ssh/ssh_config": "Include ~/x\n"})
    yield case(
        "system include relative",
        None,
        files={
            "/etc/ssh/ssh_config": "Include ssh_config.d/*.conf\n",
            "/etc/ssh/ssh_config.d/b.conf": "User b\n",
            "/etc/ssh/ssh_config.d/a.conf": "User a\n",
            "/etc/ssh/ssh_config.d/.c.conf": "Port 9\n",
        },
    )
    yield case("bracket glob", "Include [ef]xtra\n", files={"extra": "User e\n"})
    yield case(
        "same key in both files",
        "IdentityFile k\nIdentityFile k\n",
        files={"/etc/ssh/ssh_config": "IdentityFile k\nIdentityFile l\n"},
    )
    yield case("hundred and one keys", "".join(f"IdentityFile k{n}\n" for n in range(101)))
    yield case("hundred keys", "".join(f"IdentityFile k{n}\n" for n in range(100)))
    yield case(
        "many known hosts files",
        "UserKnownHostsFile " + " ".join(f"/k{n}" for n in range(33)) + "\n",
    )
    yield case("long line", "User " + "u" * 5000 + "\n")
    yield case("long forward", "LocalForward 80 " + "h" * 300 + ":1\n")
    yield case("long pattern", "Match host " + "h" * 2000 + ",web\nUser x\n")
    yield case("no final newline", "User x")
    yield case("carriage returns", "User x\r\nPort 5\r\n")
    yield case("backslash at end", "User x \\\nPort 5\n")
    yield case("tabs", "\tUser\tx\t\n")
    yield case("nothing but blanks", "   \n\t\n\f\n \f\n")
    yield case("bytes", "User \udcff\udcfe\n")
    yield case(
        "canonical",
        f"{canonical} nowhere.net example.com\nHost known.example.com\nUser c\n",
        "known",
    )
    yield case(
        "canonical dots", "CanonicalizeHostname yes\nCanonicalDomains com\n", "known.example"
    )
    yield case(
        "canonical too many dots",
        "CanonicalizeHostname yes\nCanonicalDomains com\nCanonicalizeMaxDots 0\n",
        "known.example",
    )
    yield case("canonical anchored", "CanonicalizeHostname yes\n", "known.example.com.")
    yield case(
        "canonical anchored unknown",
        "CanonicalizeHostname yes\nCanonicalizeFallbackLocal no\n",
        "nobody.",
    )
    yield case(
        "canonical with jump",
        "CanonicalizeHostname yes\nCanonicalDomains example.com\nProxyJump j\n",
        "known",
    )
    yield case(
        "canonical always with jump",
        "CanonicalizeHostname always\nCanonicalDomains example.com\nProxyJump j\n",
        "known",
    )
    yield case(
        "canonical proxy none",
        "CanonicalizeHostname yes\nCanonicalDomains example.com\nProxyCommand none\n",
        "known",
    )
    yield case(
        "cname permitted",
        f"{canonical} alias.example.com\nCanonicalizePermittedCNAMEs *:*\n",
        "www",
    )
    yield case(
        "cname denied",
        f"{canonical} alias.example.com\nCanonicalizePermittedCNAMEs *:*.org\n",
        "www",
    )
    yield case(
        "cname without canonicalisation",
        "CanonicalizePermittedCNAMEs *:*\n",
        "www.alias.example.com",
    )
    yield case("cname of unknown", "CanonicalizePermittedCNAMEs *:*\n", "nobody")
    yield case(
        "cname of unknown with jump", "CanonicalizePermittedCNAMEs *:*\nProxyJump j\n", "nobody"
    )
    yield case(
        "canonical fallback refused",
        "CanonicalizeHostname yes\nCanonicalizeFallbackLocal no\n",
        "nobody",
    )
    yield case(
        "canonical addresses", "CanonicalizeHostname yes\nMatch canonical\nUser c\n", "0:0::1"
    )
    yield case("address of the other family", "AddressFamily inet6\n", "127.1")
    yield case(
        "hostname address",
        "HostName 127.1\nMatch host 127.0.0.1\nUser x\nMatch final host 127.0.0.1\nPort 3\n",
    )
    yield case("exec skipped", 'Match host no exec "echo ran >&2"\nUser x\n')
    yield case("exec killed", 'Match exec "kill -9 $$"\nUser x\n')
    yield case("exec without shell", 'Match exec "true"\nUser x\n', environ={"SHELL": "/nowhere"})
    yield case("exec and final", 'Match exec "echo once >&2"\nMatch final\nUser x\n')
    yield case(
        "exec in inactive include",
        "Host no\nInclude extra\n",
        files={"extra": 'Match exec "echo ran >&2"\nUser x\n'},
    )
    yield case("forward agent variable", "ForwardAgent $AGENT\n", environ={"AGENT": "/x"})
    yield case("environment", "ControlPath ${PLACE}/%h\n", environ={"PLACE": "/p"})
    yield case("environment in forward", "LocalForward ${PLACE}/s h:1\n", environ={"PLACE": "/p"})
    yield case("mask twice", "StreamLocalBindMask 0700\nHost no\nStreamLocalBindMask 07\n")
    yield case(
        "match in front of hostname",
        "Match host real\nUser x\nHost *\nHostName real\nMatch host real\nPort 5\n",
    )
    yield case("jump blocks command", "ProxyJump none\nProxyCommand x\n")
    yield case("command blocks jump", "ProxyCommand none\nProxyJump x\n")
    yield case(
        "stdio keeps forwards", "ClearAllForwardings no\nLocalForward 1 a:2\n", "-W", "h:1", "web"
    )
    yield case("stdio clears forwards", "LocalForward 1 a:2\n", "-W", "h:1", "web")
    yield case("hundred lines of errors", "".join(f"Bad{n} x\n" for n in range(100)))
    yield from unlike_cases()
    for setting in (
        "PasswordAuthentication",
        "CheckHostIP",
        "TCPKeepAlive",
        "HashKnownHosts",
        "StreamLocalBindUnlink",
    ):
        for value in ("yes", "no", "TRUE", "fAlse", "maybe"):
            yield case(f"{setting} {value}", f"{setting} {value}\n")


def unlike_cases() -> Iterator[Case]:
    """One for each row of the table of differences that no other case touches."""
    yield case("negated final", "Match !final\n User x\nMatch final\n Port 5\n")
    yield case("new criteria", "Match tagged x\n User x\n")
    yield case("old keys", "HostKeyAlgorithms +ssh-dss\n")
    yield case("no ciphers", "Ciphers -*\n")
    yield case("path for stdio", None, "-W", "/s", "web")
    yield case("tag", None, "-P", "web")
    yield case("twice seconds", "ConnectTimeout 1s2s\n")
    yield case("old type of service", "IPQoS lowdelay\n")
    yield case("kept alive", "BatchMode yes\n")
    yield case("sent twice", "SendEnv A\nHost *\nSendEnv A\n")


CATEGORIES = {
    "keywords": keyword_cases,
    "fitting": fitting_cases,
    "tokens": token_cases,
    "quoting": quoting_cases,
    "blocks": block_cases,
    "flags": flag_cases,
    "hand_written": hand_written_cases,
}
