#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that the fleet in a box and the tests need, and only those whose programs are missing.
#
#   scripts/install_packages.sh           install (as root)
#   scripts/install_packages.sh --check   say what is missing; exit code 1 if anything is
#
# Services that come with the packages (docker, haproxy and others) are neither started nor enabled, unless they
# were installed before: the box runs engines of its own, and a machine must not get a Docker daemon by trying us.
set -euo pipefail

# program (or file) : package
needs=(
    dockerd:docker.io containerd:containerd runc:runc docker-registry:docker-registry
    mmdebstrap:mmdebstrap haproxy:haproxy dnsmasq:dnsmasq-base keepalived:keepalived
    nft:nftables iptables:iptables ip:iproute2 ping:iputils-ping tcpdump:tcpdump
    busybox:busybox-static nsenter:util-linux ps:procps curl:curl git:git iperf3:iperf3 wrk:wrk
    /etc/ssl/certs/ca-certificates.crt:ca-certificates ssh:openssh-client sshd:openssh-server
)
units=(docker.service docker.socket containerd.service docker-registry.service haproxy.service keepalived.service iperf3.service ssh.service ssh.socket)
policy=/usr/sbin/policy-rc.d
mark="# made by Moorage's install_packages.sh; removed by it again"
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

say() { printf 'packages: %s\n' "$*"; }
fail() { printf 'packages: %s\n' "$*" >&2; exit 1; }

is_there() {
    case $1 in
        /*) [ -e "$1" ] ;;
        # The box puts busybox into an image without a loader: it must be the static one.
        busybox) [ -x /bin/busybox ] && ! grep -q -a -m1 '/ld-linux\|/ld-musl' <(head -c 4096 /bin/busybox) ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

missing=()
for pair in "${needs[@]}"; do
    is_there "${pair%%:*}" || missing+=("${pair##*:}")
done
# Since Debian 13 and Ubuntu 25 Docker's client is a package of its own.
if ! command -v docker >/dev/null || [[ " ${missing[*]} " == *" docker.io "* ]]; then
    if apt-cache show docker-cli >/dev/null 2>&1; then missing+=(docker-cli); fi
fi
python=${PYTHON:-python3}
if ! "$python" -c 'import ensurepip' 2>/dev/null; then missing+=(python3-venv); fi

if [ ${#missing[@]} -eq 0 ]; then
    say "nothing is missing"
    exit 0
fi
if [ "${1:-}" = --check ]; then
    say "missing: ${missing[*]}"
    exit 1
fi
command -v apt-get >/dev/null || fail "this machine has no apt-get; install the like of: ${missing[*]}"
[ "$(id -u)" -eq 0 ] || fail "missing: ${missing[*]}; installing them needs root: sudo make setup"

# Units that are here already stay as they are.
new_units=()
for unit in "${units[@]}"; do
    if ! [ -e "/lib/systemd/system/$unit" ] && ! [ -e "/etc/systemd/system/$unit" ]; then new_units+=("$unit"); fi
done

saved=
restore() {
    if [ -n "$saved" ]; then mv -f "$saved" "$policy"
    elif [ -e "$policy" ] && grep -qF "$mark" "$policy"; then rm -f "$policy"
    fi
}
trap restore EXIT
if [ -e "$policy" ]; then
    if grep -qF "$mark" "$policy"; then
        # An earlier run was killed; what stood here before it is beside it, if anything did.
        if [ -e "$policy.before-moorage" ]; then saved="$policy.before-moorage"; fi
    else
        saved="$policy.before-moorage"
        cp -p "$policy" "$saved"
    fi
fi
printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy.new"
chmod 755 "$policy.new"
mv -f "$policy.new" "$policy"

say "installing ${missing[*]} (their services are not started)"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q || say "apt-get update failed; going on with the lists that are here"
apt-get install -q -y --no-install-recommends "${missing[@]}" ||
    fail "apt-get could not install ${missing[*]}; its words are above"

if command -v systemctl >/dev/null; then
    for unit in "${new_units[@]}"; do
        # Installed just now by us: it must not start at the next boot either.
        if [ -e "/lib/systemd/system/$unit" ]; then systemctl disable -q "$unit" 2>/dev/null || say "could not disable $unit"; fi
    done
fi
say "done"
