"""The runtime wrapper: a shell script between the engine and runc that puts a container into the namespace prepared
for it.

Docker creates our containers without any network, which makes runc give them an empty namespace. The wrapper,
registered in Docker's `runtimes`, edits the bundle's config.json before runc's `create` so that the `network` entry of
`linux.namespaces` names the namespace that the agent published for this container id; every other verb goes straight
to the real runtime.

Instances that run under leases (hostagent/claims/) are refused, at `create` and at `start`, once the end has passed that the agent has
written: a start may come late out of an engine or an agent that was stopped meanwhile.

It fails closed: no namespace published, none visible, or the host's own, and nothing starts. What it says then goes as
a JSON line to the file that `--log` names, because that is the only place from which Docker shows a runtime's words.

The key is a symbolic link `<run_dir>/runtime/<container id>` to the namespace. Order of use: the engine creates the
container, the agent publishes, the engine starts it; the link stays as long as the container may be started again.

A container with secrets in its environment has a second link, `.secrets-<container id>`, to a folder in memory (see
hostagent/secret_files.py). The wrapper gives the runtime a copy of the bundle there with the variables in it, so that neither the
engine nor the bundle on which it works ever has them; no value is on a command line.

The script is POSIX sh that forks once, for sed, which writes beside the file and renames. sed treats the file as one
line, so the form in which an engine writes JSON does not matter; quotes inside JSON strings are escaped, so no value
that a user can set (environment, labels, annotations) looks like the entry.
"""

import os
import re
import shutil
from pathlib import Path

from moorage.errors import InvalidSpec, NotFound
from moorage.ids import ContainerId

_SAFE_PATH = re.compile(r"/[A-Za-z0-9_./+@-]+")
_CONTAINER_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")

_SCRIPT = r"""#!/bin/sh
# Moorage's runtime wrapper; written by moorage-hostagent, do not edit. See hostagent/runtime/wrapper.py.
real=@REAL@
links=@RUN_DIR@/runtime
spaces=@RUN_DIR@/netns
leases=@RUN_DIR@/leases
log= bundle=. verb= id= value=

fail() {
    line='{"level":"error","msg":"moorage: '"$1"'"}'
    if [ -n "$log" ]; then printf '%s\n' "$line" >>"$log"; fi
    printf '%s\n' "$line" >&2
    exit 1
}

mount_of() { # of an open file: the number of the mount that it lies on
    while read -r name number; do
        if [ "$name" = mnt_id: ]; then mount=$number; return; fi
    done <"/proc/self/fdinfo/$1"
    mount=
}

for word do
    if [ -n "$value" ]; then
        case $value in
        log) log=$word ;;
        bundle) bundle=$word ;;
        esac
        value=
    elif [ -z "$verb" ]; then
        case $word in
        --log=* | -log=*) log=${word#*=} ;;
        --log | -log) value=log ;;
        --*=* | -*=*) ;;
        --root | --log-format | --log-level | --criu | --rootless | --cgroup-manager) value=other ;;
        -root | -log-format | -log-level | -criu | -rootless | -cgroup-manager) value=other ;;
        -*) ;;
        *)
            verb=$word
            case $verb in create | run | start) ;; *) break ;; esac
            ;;
        esac
    else
        case $word in
        --bundle=* | -bundle=* | -b=*) bundle=${word#*=} ;;
        --bundle | -bundle | -b) value=bundle ;;
        --*=* | -*=*) ;;
        --console-socket | --pid-file | --preserve-fds) value=other ;;
        -console-socket | -pid-file | -preserve-fds) value=other ;;
        -*) ;;
        *) id=$word ;;
        esac
    fi
done

case $verb in create | run | start) ;; *) exec "$real" "$@" ;; esac

case $id in
'' | *[!A-Za-z0-9_.-]* | .*) fail "the container id is missing or not one" ;;
esac
if [ -e "$leases" ]; then
    read -r booted </proc/sys/kernel/random/boot_id
    read -r now value </proc/uptime
    now=${now%.*}${now#*.}
    {
        read -r value value boot value
        while read -r end value value ids; do
            case ,$ids, in *",$id,"*) ;; *) continue ;; esac
            if [ "$boot" != "$booted" ] || [ "$end" -le "$now" ]; then
                fail "container $id has no lease of the control plane now; it is not started"
            fi
        done
    } <"$leases"
fi
[ "$verb" != start ] || exec "$real" "$@"
link=$links/$id
[ -L "$link" ] || fail "no network namespace is published for container $id; it is not started"
[ -f "$link" ] || fail "the network namespace published for container $id does not exist; it is not started"
if [ -s "$link" ] || [ "$link" -ef /proc/self/ns/net ] || [ "$link" -ef /proc/1/ns/net ]; then
    fail "what is published for container $id is the host's network or no namespace; it is not started"
fi
exec 7<"$spaces" 8<"$link" || fail "the network namespace published for container $id cannot be opened"
mount_of 7
outside=$mount
mount_of 8
exec 7<&- 8<&-
if [ -z "$mount" ] || [ "$mount" = "$outside" ]; then
    fail "the network namespace published for container $id is not visible to the engine; it is not started"
fi

space='[[:space:]]*'
secrets=$links/.secrets-$id
if [ -L "$secrets" ]; then
    [ -f "$secrets/env.sed" ] || fail "the secrets of container $id are not on this host now; it is not started"
    case $bundle in
    *[!A-Za-z0-9_./+@-]* | [!/]*) fail "the bundle of container $id is no absolute path of plain characters" ;;
    esac
    umask 077
    copy=$secrets/bundle
    mkdir -p "$copy" && cp "$bundle/config.json" "$copy/config.json" || fail "the bundle of container $id cannot be copied"
    LC_ALL=C sed -z -E -i -f "$secrets/env.sed" \
        -e "s#(\"root\"$space:$space\{[^{}]*\"path\"$space:$space\")([^/\"])#\\1$bundle/\\2#" \
        "$copy/config.json" 2>/dev/null || fail "the secrets of container $id cannot be put into its environment; it is not started"
    words=$# value=
    for word do
        if [ -n "$value" ]; then
            word=$copy value=
        else
            case $word in
            --bundle | -bundle | -b) value=yes ;;
            --bundle=* | -bundle=* | -b=*) word=--bundle=$copy ;;
            esac
        fi
        set -- "$@" "$word"
    done
    shift "$words"
    bundle=$copy
fi

before='"namespaces"'$space:$space'\[('$space'\{[^{}]*\}'$space',)*'$space
entry='\{([^{}]*,)?'$space'"type"'$space:$space'"network"'$space'(,[^{}]*)?\}'
wanted='{"type":"network","path":"'$link'"}'
LC_ALL=C sed -z -E -i "s|($before)$entry|\\1$wanted|;t;q1" "$bundle/config.json" 2>/dev/null ||
    fail "the container's config.json has no network namespace to set; it is not started"

exec "$real" "$@"
"""


def render(run_dir: Path, real_runtime: str = "runc") -> str:
    """The script's text.

    Args:
        run_dir: the agent's run folder, absolute, of plain characters.
        real_runtime: program that does the work; a name is looked up in the engine's PATH.
    Raises: InvalidSpec: a path that the script could not carry unquoted.
    """
    if not _SAFE_PATH.fullmatch(str(run_dir)):
        raise InvalidSpec.of("run_dir", f"{str(run_dir)!r} is not an absolute path of plain characters")
    if not re.fullmatch(r"[A-Za-z0-9_./+@-]+", real_runtime):
        raise InvalidSpec.of("real_runtime", f"{real_runtime!r} has characters other than plain ones")
    return _SCRIPT.replace("@RUN_DIR@", str(run_dir)).replace("@REAL@", real_runtime)


def install(path: Path, *, run_dir: Path, real_runtime: str = "runc") -> bool:
    """Write the script to `path`, executable, atomically; whether anything changed.

    Raises: NotFound: the real runtime is not on this host.
    """
    if shutil.which(real_runtime) is None:
        raise NotFound(f"the runtime {real_runtime!r} is not on this host", reason="RUNTIME_NOT_FOUND")
    text = render(run_dir, real_runtime)
    try:
        if path.read_text() == text and os.access(path, os.X_OK):
            return False
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.chmod(0o755)
    os.replace(temporary, path)
    return True


class RuntimeKeys:
    """The links that tell the wrapper where a container belongs. Cheap, blocking; safe to repeat."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / "runtime"

    def publish(self, container_id: ContainerId, ns_path: Path, secrets: Path | None = None) -> None:
        """Let the container start in this namespace from now on; replaces an earlier link atomically.

        Args:
            secrets: folder with env.sed, without which it must not start; None: it has no such variables.
        Raises: InvalidSpec: the id or the path is not one.
        """
        link = self._link(container_id)
        if secrets is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            mark = self._secrets_link(container_id)
            mark.unlink(missing_ok=True)
            mark.symlink_to(secrets)  # before the namespace's, without which nothing starts
        if not _SAFE_PATH.fullmatch(str(ns_path)):
            raise InvalidSpec.of("ns_path", f"{str(ns_path)!r} is not an absolute path")
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f".{container_id}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(ns_path)
        os.replace(temporary, link)

    def withdraw(self, container_id: ContainerId) -> None:
        """The container may not start any more. Idempotent."""
        self._link(container_id).unlink(missing_ok=True)
        self._secrets_link(container_id).unlink(missing_ok=True)

    def published(self) -> dict[ContainerId, Path]:
        """All links."""
        if not self._folder.is_dir():
            return {}
        links = [link for link in sorted(self._folder.iterdir()) if link.is_symlink() and not link.name.startswith(".")]
        return {ContainerId(link.name): link.readlink() for link in links}

    def _secrets_link(self, container_id: ContainerId) -> Path:
        return self._folder / f".secrets-{container_id}"

    def _link(self, container_id: ContainerId) -> Path:
        if not _CONTAINER_ID.fullmatch(container_id) or container_id.startswith("."):
            raise InvalidSpec.of("container_id", f"{container_id!r} is not a container id")
        return self._folder / container_id
