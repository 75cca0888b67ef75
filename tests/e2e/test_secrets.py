"""Secrets come to the processes that they are for, and to no disk, log or answer: a thousand planted, none found."""

import base64
import contextlib
import os
import re
import secrets
import stat
import string
import zlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from cli.dev.fleet import Fleet
from cli.dev.host import Host
from cli.dev.programs import CONTROLPLANE
from moorage.client import paginate
from moorage.v1 import configs_pb2, events_pb2, secret_uses_pb2, secrets_pb2, templates_pb2, watch_pb2
from moorage.v1 import instances_pb2 as pb
from tests.support import onhost
from tests.support.plane import STAY, Plane, until

FILES, VARIABLES, EACH = 40, 10, 20  # secrets as files and as variables, and the canaries in each
_ALPHABET = string.ascii_letters + string.digits


def word(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


class Canaries:
    """Strings that nothing else can hold by chance, all with one mark, so that one look finds any of them."""

    def __init__(self) -> None:
        self.mark = word(15)
        self.payloads = [
            "\n".join(f"{self.mark}{word(16)}" for _ in range(EACH)).encode() for _ in range(FILES + VARIABLES)
        ]
        plain = self.mark.encode()
        # However a program may have written it: as it is, in Base64 at any offset, in hexadecimal digits, with wide characters.
        shapes = [plain, plain.hex().encode(), "\0".join(self.mark).encode()]
        shapes += [base64.b64encode(b"x" * offset + plain)[4 if offset else 0 :][:-4] for offset in range(3)]
        self.pattern = re.compile(b"|".join(map(re.escape, shapes)))

    def files_with(self, folder: Path, *, apart_from: Path | None = None) -> list[str]:
        return [str(path) for path in _files(folder, apart_from) if self.pattern.search(_content(path))]


def _files(folder: Path, apart_from: Path | None) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if Path(parent, name) != apart_from]
        yield from (Path(parent, name) for name in names)


def _content(path: Path) -> bytes:
    """A file's bytes, and what they unpack to."""
    with contextlib.suppress(OSError):  # gone meanwhile
        if stat.S_ISREG(path.lstat().st_mode):
            data = path.read_bytes()
            return data + (zlib.decompressobj(31).decompress(data) if data[:2] == b"\x1f\x8b" else b"")
    return b""


async def make(plane: Plane, secret_id: str, payload: bytes) -> None:
    await plane.client.secrets.CreateSecret(
        secrets_pb2.CreateSecretRequest(
            parent=plane.project, secret_id=secret_id, payload=payload, request_id=word(8), secret=secrets_pb2.Secret()
        )
    )


@pytest.fixture
async def canaries(plane: Plane) -> Canaries:
    made = Canaries()
    for number, payload in enumerate(made.payloads):
        await make(plane, f"canary-{number}", payload)
    return made


def uses() -> list[secret_uses_pb2.SecretUse]:
    """The first ones as files, some of them elsewhere, the last ones as variables."""
    found = [secret_uses_pb2.SecretUse(secret=f"canary-{number}") for number in range(FILES + VARIABLES)]
    for number in range(FILES):
        if number % 4 == 0:
            found[number].file.path = f"/etc/app/{number}.key"
            found[number].file.mode = 0o440
            found[number].file.uid = 7
    for number in range(VARIABLES):
        found[FILES + number].env = f"CANARY_{number}"
    return found


async def inside(plane: Plane, name: str, *command: str) -> str:
    code, output = await plane.exec(name, command)
    assert code == 0, output
    return output


async def test_a_thousand_canaries(plane: Plane, fleet: Fleet, hosts: list[Host], canaries: Canaries) -> None:
    names = [f"keeper-{number}" for number in range(4)]
    specs = {name: plane.spec(secrets=uses(), host=1 + n % 3) for n, name in enumerate(names)}
    specs[names[3]].read_only_root = True
    await plane.run(specs)
    for name in names:
        for number in (0, 1, FILES - 1):
            path = f"/etc/app/{number}.key" if number % 4 == 0 else f"/run/secrets/canary-{number}"
            assert (await inside(plane, name, "cat", path)).encode() == canaries.payloads[number]
        environment = await inside(plane, name, "cat", "/proc/1/environ")
        for number in range(VARIABLES):
            assert f"CANARY_{number}={canaries.payloads[FILES + number].decode()}\0" in environment
        assert (await inside(plane, name, "stat", "-c", "%a %u", "/etc/app/0.key")).split() == ["440", "7"]
        assert (await inside(plane, name, "stat", "-c", "%a %u", "/run/secrets/canary-1")).split() == ["400", "0"]
        assert canaries.mark not in await inside(plane, name, "env"), "what exec starts lacks the variables"
        code, _ = await plane.exec(name, ["sh", "-c", "echo x > /run/secrets/canary-1"])
        assert code != 0
    # What people do with instances that have secrets.
    source = templates_pb2.TemplateSource(
        snapshot=templates_pb2.SnapshotSource(instance=plane.name("instances", names[0]))
    )
    await plane.finish(await plane.create_template("snapped", source))
    await plane.client.instances.RebootInstance(pb.RebootInstanceRequest(name=plane.name("instances", names[1])))
    await plane.reach([names[1]], pb.INSTANCE_STATE_RUNNING, after_runs={names[1]: 1})
    assert canaries.mark in await inside(plane, names[1], "cat", "/proc/1/environ")

    answers = [await plane.get(name) for name in names]
    events = [
        e
        async for e in paginate(
            plane.client.events.ListEvents, events_pb2.ListEventsRequest(parent="projects/-"), lambda p: p.events
        )
    ]
    audit = [
        e
        async for e in paginate(
            plane.client.events.ListAuditEvents, events_pb2.ListAuditEventsRequest(), lambda p: p.audit_events
        )
    ]
    assert any(e.method.endswith("/CreateSecret") for e in audit)
    listed = await plane.client.secrets.ListSecrets(secrets_pb2.ListSecretsRequest(parent=plane.project))
    assert len(listed.secrets) == FILES + VARIABLES
    watched = []
    async for change in plane.client.watch.Watch(watch_pb2.WatchRequest()):
        watched.append(change)
        if change.synced:
            break
    for message in (*answers, *events, *audit, listed, *watched):
        assert not canaries.pattern.search(message.SerializeToString())

    for host in hosts:
        for container in await onhost.containers(host):
            assert not canaries.pattern.search((await host.docker("inspect", container.id)).encode())
        run = Path(f"/proc/{host.holder_pid}/root/run")
        assert canaries.files_with(run / "moorage/secrets"), "the search finds what is there"
        assert canaries.files_with(run, apart_from=run / "moorage/secrets") == []
    assert canaries.files_with(fleet.config.directory) == []


async def add(plane: Plane, secret_id: str, payload: bytes) -> None:
    name = plane.name("secrets", secret_id)
    await plane.client.secrets.AddSecretVersion(secrets_pb2.AddSecretVersionRequest(parent=name, payload=payload))


async def test_a_later_version_restarts_or_signals(plane: Plane) -> None:
    await make(plane, "db", b"first")
    await plane.client.configs.CreateConfig(
        configs_pb2.CreateConfigRequest(
            parent=plane.project, config_id="conf", payload=b"1", config=configs_pb2.Config()
        )
    )
    both = [
        secret_uses_pb2.SecretUse(secret="db", on_rotate=secret_uses_pb2.ON_ROTATE_RESTART),
        secret_uses_pb2.SecretUse(secret="db", env="PASSWORD", on_rotate=secret_uses_pb2.ON_ROTATE_RESTART),
    ]
    told = [
        secret_uses_pb2.SecretUse(secret="db", on_rotate=secret_uses_pb2.ON_ROTATE_SIGNAL),
        secret_uses_pb2.SecretUse(secret="db", env="PASSWORD"),
    ]
    conf = secret_uses_pb2.ConfigUse(config="conf", on_rotate=secret_uses_pb2.ON_ROTATE_SIGNAL, signal="SIGUSR1")
    reads = "cat /run/secrets/db >>/seen; " + STAY.replace(
        "trap", "trap 'cat /run/secrets/db >>/seen' HUP; trap 'cat /run/configs/conf >>/seen' USR1; trap", 1
    )
    await plane.run({"anew": plane.spec(reads, secrets=both), "told": plane.spec(reads, secrets=told, configs=[conf])})

    async def seen(name: str) -> str:
        return (await plane.exec(name, ["cat", "/seen"]))[1]

    await add(plane, "db", b"second")
    await plane.reach(["anew"], pb.INSTANCE_STATE_RUNNING, after_runs={"anew": 1})
    await until(lambda: is_equal(seen, "anew", "firstsecond"), what="the second version after a restart")
    assert "PASSWORD=second" in await inside(plane, "anew", "cat", "/proc/1/environ")
    await until(lambda: is_equal(seen, "told", "firstsecond"), what="the second version after a signal")
    await plane.client.configs.AddConfigVersion(
        configs_pb2.AddConfigVersionRequest(parent=plane.name("configs", "conf"), payload=b"2")
    )
    await until(lambda: is_equal(seen, "told", "firstsecond2"), what="the config after its signal")
    environment = await inside(plane, "told", "cat", "/proc/1/environ")
    assert "PASSWORD=first" in environment, "it keeps what it was started with"
    assert (await plane.get("told")).status.run == 1


async def is_equal(ask: Callable[[str], Awaitable[str]], name: str, wanted: str) -> bool:
    return await ask(name) == wanted


async def test_without_the_control_plane(plane: Plane, fleet: Fleet, hosts: list[Host]) -> None:
    """A process that ends is started again from what is in memory; after a reboot of the host it waits for what is not."""
    await make(plane, "db", b"hush")
    use = secret_uses_pb2.SecretUse(secret="db", env="PASSWORD")
    made = (await plane.run({"web": plane.spec(secrets=[use, secret_uses_pb2.SecretUse(secret="db")], host=1)}))["web"]

    async def container() -> onhost.Container | None:
        return next(
            (c for c in await onhost.containers(fleet.hosts()[0]) if c.instance == made.uid and c.is_running), None
        )

    before = await container()
    assert before is not None
    await fleet.kill(CONTROLPLANE)
    try:
        await hosts[0].docker("kill", before.id)

        async def again() -> bool:
            now = await container()
            return now is not None and now.pid != before.pid

        await until(again, what="another run")
        await fleet.power_off("h1")
        log = fleet.config.directory / "logs/h1-agent.log"
        told = log.read_text().count("SECRETS_UNREACHABLE")
        await fleet.start("h1")

        async def waits() -> bool:
            return log.read_text().count("SECRETS_UNREACHABLE") > told

        await until(waits, what="the agent says what it waits for", within_seconds=60)
        assert await container() is None
    finally:
        await fleet.start("h1")
        await fleet.start(CONTROLPLANE)
        await fleet.up()
    await until(container, what="it runs again", within_seconds=60)
    assert "PASSWORD=hush" in await inside(plane, "web", "cat", "/proc/1/environ")
