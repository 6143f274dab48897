#!/bin/sh
# make demo: a single-user server and a client on loopback, in a folder of their own that is removed
# at the end. No root, no questions; nothing of ~/.ssh is read or written. With CMD set, that command
# is run instead of a shell, and its status is the demo's.
#
# usage: packaging/demo.sh FOLDER-OF-THE-PROGRAMS

set -eu

bin=${1:?usage: packaging/demo.sh FOLDER-OF-THE-PROGRAMS}
place=$(mktemp -d "${TMPDIR:-/tmp}/sshoq-demo.XXXXXX")
server=

# As root the server wants its own user. Where it is missing it is made, and the last of the demos
# that run removes it: each shares the lock on this directory.
service_user_comment='sshoq demo'
service_user_lock=/run

make_service_user() {
    exec 9<"$service_user_lock"
    flock -s 9
    if ! id sshoq >/dev/null 2>&1; then
        echo "demo: as root the server wants its own user; 'sshoq' is made for as long as the demo runs" >&2
        # Another demo may be quicker.
        useradd --system --no-create-home --home-dir /run/sshoq/empty --shell /usr/sbin/nologin \
            --comment "$service_user_comment" sshoq || id sshoq >/dev/null
    fi
}

remove_service_user() {
    flock -n 9 || return 0
    if getent passwd sshoq | grep -q ":$service_user_comment:"; then
        userdel sshoq || true
    fi
}

finish() {
    status=$?
    trap - EXIT
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    [ "$(id -u)" != 0 ] || remove_service_user
    rm -rf "$place"
    exit "$status"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

free_port() {
    "$bin/python" -c 'import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    probe.bind(("127.0.0.1", 0))
    print(probe.getsockname()[1])'
}

port=$(free_port)
path=/demo-$$
ssh-keygen -q -t ed25519 -N '' -C 'sshoq demo, host' -f "$place/host_key"
ssh-keygen -q -t ed25519 -N '' -C 'sshoq demo, client' -f "$place/client_key"
cp "$place/client_key.pub" "$place/authorized_keys"
awk -v port="$port" '{ print "[127.0.0.1]:" port, $1, $2 }' "$place/host_key.pub" >"$place/known_hosts"
cat >"$place/server_config" <<END
Port $port
ListenAddress 127.0.0.1
URLPath $path
HostKey "$place/host_key"
AuthorizedKeysFile "$place/authorized_keys"
PidFile "$place/server.pid"
StrictModes no
UsePAM no
PermitRootLogin yes
END

[ "$(id -u)" != 0 ] || make_service_user

# In a session of its own, so that ^C in the demo's shell is the shell's affair.
setsid "$bin/sshoq-server" -D -e -f "$place/server_config" 2>"$place/server.log" 9>&- &
server=$!

tries=0
until [ -s "$place/server.pid" ]; do
    tries=$((tries + 1))
    if ! kill -0 "$server" 2>/dev/null || [ "$tries" -gt 100 ]; then
        echo "demo: the server did not start:" >&2
        cat "$place/server.log" >&2
        exit 1
    fi
    sleep 0.1
done

echo "sshoq-server listens on udp 127.0.0.1:$port$path (pid $server); leaving the shell ends it." >&2
set -- "$bin/sshoq" -F none -p "$port" -i "$place/client_key" \
    -o IdentitiesOnly=yes -o UserKnownHostsFile="\"$place/known_hosts\"" \
    -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes -o Transport=quic \
    "$(id -un)@127.0.0.1$path"
if [ -n "${CMD:-}" ]; then
    "$@" "$CMD" 9>&-
else
    "$@" 9>&-
fi
