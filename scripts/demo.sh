#!/usr/bin/env bash
# A control plane and three hosts on this machine; templates in three ways; instances that answer. `demo.sh down` removes all.
set -euo pipefail
cd "$(dirname "$0")/.."
moor=${MOOR:-.venv/bin/moor}
port=${MOORAGE_DEMO_PORT:-8080}
# A registry of the fleet's own, so that the demo needs no other; or any image that you name.
repository=${MOORAGE_DEMO_REPOSITORY:-172.31.250.1:7463/demo/web:1}
folder=/var/lib/moorage-dev

step() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

if [ "$(id -u)" -ne 0 ]; then
    echo "demo: needs root, because it makes network namespaces: sudo make demo" >&2
    exit 1
fi
if [ "${1:-up}" = down ]; then
    exec "$moor" dev down
fi

step "$moor" dev up --hosts 3
eval "$("$moor" dev env)"

mkdir -p "$folder/demo/built"
step "$moor" dev rootfs "$folder/demo/web.tar"
cp "$folder/demo/web.tar" "$folder/demo/built/rootfs.tar"
cat >"$folder/demo/built/Dockerfile" <<'DOCKERFILE'
FROM scratch
ADD rootfs.tar /
RUN echo '<h1>Built from a Dockerfile</h1>' >/www/index.html
CMD ["httpd", "-f", "-h", "/www"]
DOCKERFILE

registered() { "$moor" template get "$1" >/dev/null 2>&1; }
registered web || step "$moor" template register web --tar "$folder/demo/web.tar" --command "httpd -f -h /www" --port 80
registered built || step "$moor" template register built --dockerfile "$folder/demo/built" --port 80
if ! registered pulled; then
    options=(--command "httpd -f -h /www" --port 80)
    if [ -z "${MOORAGE_DEMO_REPOSITORY:-}" ]; then
        # What any user does with an image: import it, push it.
        host_docker() { docker -H "unix://$folder/hosts/h1/docker.sock" "$@"; }
        step host_docker import --message demo "$folder/demo/web.tar" "$repository"
        step host_docker push --quiet "$repository"
        step host_docker rmi "$repository"
        options+=(--plain-http)
    fi
    step "$moor" template register pulled --from-repository "$repository" "${options[@]}"
fi

"$moor" instance get web-1 >/dev/null 2>&1 || step "$moor" run -d --name web-1 -p "$port:80" --host h1 web
"$moor" instance get web-2 >/dev/null 2>&1 || step "$moor" run -d --name web-2 -p "$port:80" --host h2 built
"$moor" instance get web-3 >/dev/null 2>&1 || step "$moor" run -d --name web-3 pulled
step "$moor" host ls
step "$moor" ps
for address in 172.31.250.11 172.31.250.12; do
    step curl -fsS --retry 20 --retry-connrefused --retry-delay 1 "http://$address:$port/"
done
step "$moor" exec web-1 wget -q -O - http://web-2/
step "$moor" exec web-1 wget -q -O - http://web-3/
step "$moor" explain web-3
printf '\nIt stays up. Use it: eval "$(%s dev env)". Remove it: sudo make demo-down\n' "$moor"
