"""How the running HAProxy becomes the wanted one: by commands of its runtime API, or by a reload. Pure.

The order keeps every request served: servers come before routes lead to them, and go after none does. A server that shall go is put
into maintenance, which lets its requests finish; it is deleted when it has none, which HAProxy decides: the command may fail, and is
tried again with the next change. Repeating a plan after any prefix of it was carried out leads to the same end.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from hostagent.router.haproxy_answers import LiveServer
from hostagent.router.haproxy_config import Backend, HaproxyConfiguration, Server, server_arguments

# A command and its payload must fit into one buffer of HAProxy's, 16384 bytes.
_LONGEST_PAYLOAD = 12_000


@dataclass(frozen=True, slots=True)
class RuntimeCommand:
    """One command of the runtime API.

    Attributes:
        text: one line.
        payload: lines that follow it; secret.
        expects: words that a good answer has; empty: a good answer is empty.
        may_fail: whether it is done later if it cannot be done now.
    """

    text: str
    payload: str = field(default="", repr=False)
    expects: str = ""
    may_fail: bool = False

    def succeeded(self, answer: str) -> bool:
        """Whether this answer is a good one."""
        return self.expects in answer if self.expects else not answer.strip()


@dataclass(frozen=True, slots=True)
class RuntimeChanges:
    """The runtime API is enough."""

    commands: tuple[RuntimeCommand, ...] = ()

    @property
    def is_settled(self) -> bool:
        """Whether what runs is what is wanted, except what goes when it is idle."""
        return all(command.may_fail for command in self.commands)


@dataclass(frozen=True, slots=True)
class Reload:
    """Only a new process can do it."""

    why: str


@dataclass(frozen=True, slots=True)
class LiveConfiguration:
    """What runs.

    Attributes:
        shape: what the process says of itself.
        servers: by backend and name.
        maps: by file name.
        certificates: contents of their files, which are written after the process has taken them over.
    """

    shape: str
    servers: Mapping[str, Mapping[str, LiveServer]] = field(default_factory=dict)
    maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    certificates: Mapping[str, str] = field(default_factory=dict, repr=False)


def plan(live: LiveConfiguration, wanted: HaproxyConfiguration, folder: str) -> RuntimeChanges | Reload:
    """What makes the running configuration the wanted one.

    Args:
        folder: path of the files as HAProxy sees it.
    """
    if live.shape != wanted.shape:
        return Reload("listeners, pools or their options change")
    for name, pem in wanted.certificates.items():
        if live.certificates.get(name) != pem and len(pem) > _LONGEST_PAYLOAD:
            return Reload("a certificate is too long for the runtime API")
    commands: list[RuntimeCommand] = []
    for name, backend in wanted.backends.items():
        commands += _servers_that_stay(name, backend, live.servers.get(name, {}))
    for file, table in wanted.maps.items():
        commands += _map(f"{folder}/{file}", live.maps.get(file, {}), table)
    for name, pem in wanted.certificates.items():
        if live.certificates.get(name) != pem:
            file = f"{folder}/{name}"
            commands += [
                RuntimeCommand(f"set ssl cert {file}", payload=pem, expects="ransaction"),
                RuntimeCommand(f"commit ssl cert {file}", expects="Success!"),
            ]
    for name, backend in wanted.backends.items():
        commands += _servers_that_go(name, backend, live.servers.get(name, {}))
    return RuntimeChanges(tuple(commands))


def _servers_that_stay(name: str, backend: Backend, live: Mapping[str, LiveServer]) -> Iterator[RuntimeCommand]:
    is_cookie_due = False
    for server in backend.servers:
        running, path = live.get(server.name), f"{name}/{server.name}"
        if running is None:
            yield RuntimeCommand(
                f"add server {path} {server.endpoint} {server_arguments(server, backend)}", expects="registered"
            )
        else:
            yield from _changes(path, running, server)
        if running is None or running.is_in_maintenance:
            is_cookie_due = backend.has_cookie
            if backend.is_checked:
                yield RuntimeCommand(f"enable health {path}")
            yield RuntimeCommand(f"set server {path} state ready")
    if is_cookie_due:
        # 2.6 makes no cookie for a server that is added; this makes those of all of them again
        yield RuntimeCommand(f"enable dynamic-cookie backend {name}")


def _changes(path: str, running: LiveServer, server: Server) -> Iterator[RuntimeCommand]:
    if running.address != server.address or running.port != server.port:
        yield RuntimeCommand(f"set server {path} addr {server.address} port {server.port}", expects="changed")
    if running.weight != server.weight:
        yield RuntimeCommand(f"set server {path} weight {server.weight}")


def _servers_that_go(name: str, backend: Backend, live: Mapping[str, LiveServer]) -> Iterator[RuntimeCommand]:
    for gone in sorted(live.keys() - {server.name for server in backend.servers}):
        if not live[gone].is_in_maintenance:
            yield RuntimeCommand(f"set server {name}/{gone} state maint")
        yield RuntimeCommand(f"del server {name}/{gone}", expects="deleted", may_fail=True)


def _map(file: str, live: Mapping[str, str], table: Mapping[str, str]) -> Iterator[RuntimeCommand]:
    for key, value in sorted(table.items()):
        if key not in live:
            yield RuntimeCommand(f"add map {file} {key} {value}")
        elif live[key] != value:
            yield RuntimeCommand(f"set map {file} {key} {value}")
    for key in sorted(live.keys() - table.keys()):
        yield RuntimeCommand(f"del map {file} {key}")
