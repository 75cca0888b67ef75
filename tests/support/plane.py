"""The API as tests of a whole fleet call it: short names in, messages out, every wait with a deadline, and a clean-up
that removes what a test has made, whatever it was."""

import asyncio
import contextlib
import io
import tarfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import field_mask_pb2
from google.protobuf.duration_pb2 import Duration

from moorage.client import Client, paginate
from moorage.errors import DeadlineExceeded, NotFound
from moorage.v1 import (
    common_pb2,
    configs_pb2,
    hosts_pb2,
    networks_pb2,
    operations_pb2,
    secrets_pb2,
    security_groups_pb2,
    templates_pb2,
    volumes_pb2,
)
from moorage.v1 import instance_streams_pb2 as streams_pb2
from moorage.v1 import instances_pb2 as pb

T = TypeVar("T")

WAIT_SECONDS = 30.0
PROJECT = "projects/default"
# Ends on SIGTERM at once: a shell as process 1 would sit out the grace period.
STAY = 'trap "exit 0" TERM; while :; do sleep 1000 & wait $!; done'
RUNNING, STOPPED, PAUSED = pb.INSTANCE_STATE_RUNNING, pb.INSTANCE_STATE_STOPPED, pb.INSTANCE_STATE_PAUSED
FAILED, DELETED = pb.INSTANCE_STATE_FAILED, pb.INSTANCE_STATE_DELETED
_CHUNK_BYTES = 256 * 1024


async def until(
    condition: Callable[[], Awaitable[T]], *, what: str, within_seconds: float = WAIT_SECONDS, ignore: Any = ()
) -> T:
    """Ask until the answer is true, and return it; errors of the classes in `ignore` count as a no.

    Raises:
        DeadlineExceeded: it never was.
    """
    deadline = time.monotonic() + within_seconds
    while True:
        last: object = None
        try:
            if answer := await condition():
                return answer
            last = answer
        except ignore as error:
            last = error
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"after {within_seconds:g} s still waiting for {what}; last: {last!r}")
        await asyncio.sleep(0.05)


def shell(script: str) -> list[str]:
    """The command that runs a script."""
    return ["/bin/sh", "-c", script]


class Plane:
    """The API, as the first administrator, in one project."""

    def __init__(self, client: Client, template: str = "web", project: str = PROJECT) -> None:
        self.client = client
        self.project = project
        self.template = template

    def name(self, collection: str, last: str) -> str:
        """Full name of an object of the project; full names stay."""
        return last if "/" in last else f"{self.project}/{collection}/{last}"

    # -- templates ----------------------------------------------------------------------------------------------------

    async def upload(
        self,
        template_id: str,
        content: Iterable[bytes],
        *,
        source: templates_pb2.TemplateSource | None = None,
        defaults: templates_pb2.TemplateDefaults | None = None,
    ) -> operations_pb2.Operation:
        """Begin to register a template from bytes: a tar, unless `source` says a Dockerfile's context."""
        template = templates_pb2.Template(
            source=source or templates_pb2.TemplateSource(tar=templates_pb2.TarSource()), defaults=defaults
        )
        create = templates_pb2.CreateTemplateRequest(parent=self.project, template_id=template_id, template=template)

        async def messages() -> AsyncIterator[templates_pb2.UploadTemplateRequest]:
            yield templates_pb2.UploadTemplateRequest(create=create)
            for piece in content:
                for start in range(0, len(piece), _CHUNK_BYTES):
                    yield templates_pb2.UploadTemplateRequest(chunk=piece[start : start + _CHUNK_BYTES])

        return await self.client.templates.UploadTemplate(messages())

    async def create_template(
        self,
        template_id: str,
        source: templates_pb2.TemplateSource,
        *,
        defaults: templates_pb2.TemplateDefaults | None = None,
    ) -> operations_pb2.Operation:
        """Begin to register a template from a source that needs no bytes."""
        template = templates_pb2.Template(source=source, defaults=defaults)
        return await self.client.templates.CreateTemplate(
            templates_pb2.CreateTemplateRequest(parent=self.project, template_id=template_id, template=template)
        )

    async def finish(
        self, operation: operations_pb2.Operation, *, within_seconds: float = 60.0
    ) -> tuple[operations_pb2.Operation, list[operations_pb2.Operation]]:
        """Wait for an operation's success; it, and all its versions that were seen. Raises what it failed with."""
        seen: list[operations_pb2.Operation] = []
        done = await self.client.wait_operation(operation.name, seen.append, timeout_seconds=within_seconds)
        return done, seen

    async def get_template(self, template_id: str) -> templates_pb2.Template:
        """One template."""
        name = self.name("templates", template_id)
        return await self.client.templates.GetTemplate(templates_pb2.GetTemplateRequest(name=name))

    async def templates(self) -> dict[str, templates_pb2.Template]:
        """All templates, by name."""
        request = templates_pb2.ListTemplatesRequest(parent=self.project)
        pages = paginate(self.client.templates.ListTemplates, request, lambda page: page.templates)
        return {found.name: found async for found in pages}

    async def delete_template(self, template_id: str) -> None:
        """Delete a template and wait until it is gone."""
        name = self.name("templates", template_id)
        await self.client.templates.DeleteTemplate(templates_pb2.DeleteTemplateRequest(name=name))

        async def is_gone() -> bool:
            return name not in await self.templates()

        await until(is_gone, what=f"the end of {name}")

    # -- networks -----------------------------------------------------------------------------------------------------

    async def network(
        self, network_id: str, *cidrs: str, egress: bool = False, validate_only: bool = False
    ) -> networks_pb2.Network:
        """Make an isolated network."""
        subnets = [networks_pb2.Subnet(cidr=cidr) for cidr in cidrs]
        return await self.client.networks.CreateNetwork(
            networks_pb2.CreateNetworkRequest(
                parent=self.project,
                network_id=network_id,
                network=networks_pb2.Network(spec=networks_pb2.NetworkSpec(subnets=subnets, egress=egress)),
                validate_only=validate_only,
            )
        )

    async def networks(self) -> dict[str, networks_pb2.Network]:
        """All networks, by name."""
        request = networks_pb2.ListNetworksRequest(parent=self.project)
        pages = paginate(self.client.networks.ListNetworks, request, lambda page: page.networks)
        return {found.name: found async for found in pages}

    async def leases(self, network_id: str) -> dict[str, networks_pb2.AddressLease]:
        """The addresses that are given out on a network."""
        request = networks_pb2.ListAddressesRequest(parent=self.name("networks", network_id), page_size=1000)
        pages = paginate(self.client.networks.ListAddresses, request, lambda page: page.addresses)
        found = [lease async for lease in pages]
        by_address = {lease.address: lease for lease in found}
        assert len(by_address) == len(found), "an address was given out twice"
        return by_address

    async def security_group(
        self, group_id: str, *rules: security_groups_pb2.SecurityRule, deny_out: bool = False
    ) -> security_groups_pb2.SecurityGroup:
        """Make a security group."""
        spec = security_groups_pb2.SecurityGroupSpec(rules=rules, deny_out=deny_out)
        return await self.client.security_groups.CreateSecurityGroup(
            security_groups_pb2.CreateSecurityGroupRequest(
                parent=self.project,
                security_group_id=group_id,
                security_group=security_groups_pb2.SecurityGroup(spec=spec),
            )
        )

    async def set_rules(self, group_id: str, *rules: security_groups_pb2.SecurityRule) -> None:
        """All rules of a security group anew."""
        changed = security_groups_pb2.SecurityGroup(name=self.name("securityGroups", group_id))
        changed.spec.rules.extend(rules)
        await self.client.security_groups.UpdateSecurityGroup(
            security_groups_pb2.UpdateSecurityGroupRequest(
                security_group=changed, update_mask=field_mask_pb2.FieldMask(paths=["spec.rules"])
            )
        )

    async def set_groups(self, name: str, *groups: str) -> None:
        """The security groups of all interfaces of an instance anew."""
        found = await self.get(name)
        changed = pb.Instance(name=found.name, etag=found.etag)
        changed.spec.nics.extend(found.spec.nics)
        for nic in changed.spec.nics:
            del nic.security_groups[:]
            nic.security_groups.extend(groups)
        mask = field_mask_pb2.FieldMask(paths=["spec.nics"])
        await self.client.instances.UpdateInstance(pb.UpdateInstanceRequest(instance=changed, update_mask=mask))

    # -- instances ----------------------------------------------------------------------------------------------------

    def spec(self, script: str = STAY, **fields: Any) -> pb.InstanceSpec:
        """A spec that runs a script; `host`, `networks`, `groups`, `ports` and `memory_bytes` are short for what they say."""
        host, networks = fields.pop("host", None), fields.pop("networks", None)
        ports: Mapping[int, int] = fields.pop("ports", {})
        groups: Sequence[str] = fields.pop("groups", ())
        memory_bytes = fields.pop("memory_bytes", 0)
        spec = pb.InstanceSpec(
            template=self.name("templates", fields.pop("template", self.template)),
            command=fields.pop("command", shell(script)),
            stop_grace=Duration(seconds=3),
            **fields,
        )
        if host is not None:
            spec.placement.host = f"hosts/h{host}"
        for network in networks or ():
            name, _, address = network.partition("=")
            spec.nics.add(network=self.name("networks", name), addresses=address.split(",") if address else ())
            spec.nics[-1].security_groups.extend(groups)
        for host_port, container_port in ports.items():
            spec.published_ports.add(host_port=host_port, container_port=container_port)
        if memory_bytes:
            spec.resources.memory_bytes = memory_bytes
        return spec

    async def start_all(
        self, specs: Mapping[str, pb.InstanceSpec], *, labels: Mapping[str, str] | None = None, request_id: str = ""
    ) -> list[pb.Instance]:
        """Ask for instances, all or none; by the last part of their names."""
        requests = [
            pb.CreateInstanceRequest(instance_id=last, instance=pb.Instance(spec=spec, labels=labels))
            for last, spec in specs.items()
        ]
        response = await self.client.instances.BatchCreateInstances(
            pb.BatchCreateInstancesRequest(parent=self.project, requests=requests, request_id=request_id)
        )
        return list(response.instances)

    async def run(
        self, specs: Mapping[str, pb.InstanceSpec], *, within_seconds: float = WAIT_SECONDS
    ) -> dict[str, pb.Instance]:
        """Make instances and wait until all run; by the last part of their names."""
        made = await self.start_all(specs)
        return await self.reach([instance.name for instance in made], RUNNING, within_seconds=within_seconds)

    async def reach(
        self,
        names: Sequence[str],
        *states: "pb.InstanceState.ValueType",
        within_seconds: float = WAIT_SECONDS,
        after_runs: Mapping[str, int] | None = None,
    ) -> dict[str, pb.Instance]:
        """Wait until each instance has been in one of the states; by the last part of their names."""
        full = [self.name("instances", name) for name in names]
        runs = {self.name("instances", name): run for name, run in (after_runs or {}).items()}
        found = await self.client.wait_instances(full, states, within_seconds, after_runs=runs)
        return {name.rpartition("/")[2]: instance for name, instance in found.items()}

    async def see(
        self, name: str, fact: Callable[[pb.Instance], object], *, what: str, within_seconds: float = WAIT_SECONDS
    ) -> pb.Instance:
        """Wait until something is true of an instance; the instance then."""

        async def look() -> pb.Instance | None:
            instance = await self.get(name)
            return instance if fact(instance) else None

        found = await until(look, what=f"{name}: {what}", within_seconds=within_seconds)
        assert found is not None
        return found

    async def get(self, name: str) -> pb.Instance:
        """One instance."""
        return await self.client.instances.GetInstance(pb.GetInstanceRequest(name=self.name("instances", name)))

    async def instances(self) -> dict[str, pb.Instance]:
        """All instances, by name."""
        request = pb.ListInstancesRequest(parent=self.project, page_size=1000)
        pages = paginate(self.client.instances.ListInstances, request, lambda page: page.instances)
        return {found.name: found async for found in pages}

    async def delete(self, names: Iterable[str], *, force: bool = False, within_seconds: float = WAIT_SECONDS) -> None:
        """Delete instances and wait until they are gone."""
        full = [self.name("instances", name) for name in names]
        if not full:
            return
        await self.client.instances.BatchDeleteInstances(
            pb.BatchDeleteInstancesRequest(parent=self.project, names=full, force=force)
        )
        await self.client.wait_instances(full, (DELETED,), within_seconds)

    # -- inside -------------------------------------------------------------------------------------------------------

    async def exec(self, name: str, command: Sequence[str], *, stdin: bytes | None = None) -> tuple[int, str]:
        """Run a command in an instance; its exit code and what it printed, errors too."""
        start = streams_pb2.ExecStart(name=self.name("instances", name), command=command, stdin=stdin is not None)

        async def messages() -> AsyncIterator[streams_pb2.ExecInstanceRequest]:
            yield streams_pb2.ExecInstanceRequest(start=start)
            if stdin is not None:
                yield streams_pb2.ExecInstanceRequest(stdin=stdin)
                yield streams_pb2.ExecInstanceRequest(stdin_closed=True)

        output, code = b"", None
        async with asyncio.timeout(WAIT_SECONDS):
            async for response in self.client.streams.ExecInstance(messages()):
                part = response.WhichOneof("part")
                if part == "exit_code":
                    code = response.exit_code
                elif part in ("stdout", "stderr"):
                    output += getattr(response, part)
        assert code is not None, "exec ended without an exit code"
        return code, output.decode(errors="replace")

    async def logs(self, name: str, **options: Any) -> str:
        """What an instance has printed."""
        output = b""
        async with asyncio.timeout(WAIT_SECONDS):
            request = streams_pb2.StreamLogsRequest(name=self.name("instances", name), **options)
            async for response in self.client.streams.StreamLogs(request):
                output += response.data
        return output.decode(errors="replace")

    async def copy_in(self, name: str, folder: str, files: Mapping[str, bytes]) -> None:
        """Put files into a folder of an instance."""
        target = streams_pb2.CopyTarget(name=self.name("instances", name), path=folder)
        content = tar_of(files)

        async def messages() -> AsyncIterator[streams_pb2.CopyInRequest]:
            yield streams_pb2.CopyInRequest(target=target)
            yield streams_pb2.CopyInRequest(chunk=content)

        await self.client.streams.CopyIn(messages())

    async def copy_out(self, name: str, path: str) -> dict[str, bytes]:
        """The files at a path of an instance, by name in the archive."""
        content = b""
        request = streams_pb2.CopyOutRequest(name=self.name("instances", name), path=path)
        async for response in self.client.streams.CopyOut(request):
            content += response.chunk
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            files = [member for member in archive if member.isfile()]
            return {member.name: archive.extractfile(member).read() for member in files}  # type: ignore[union-attr]

    async def forward(self, name: str, port: int, request: bytes) -> bytes:
        """Send bytes to a port of an instance; all that comes back."""
        start = streams_pb2.ForwardStart(name=self.name("instances", name), port=port)

        async def messages() -> AsyncIterator[streams_pb2.ForwardPortRequest]:
            yield streams_pb2.ForwardPortRequest(start=start)
            yield streams_pb2.ForwardPortRequest(data=request)

        output = b""
        async with asyncio.timeout(WAIT_SECONDS):
            async for response in self.client.streams.ForwardPort(messages()):
                output += response.data
        return output

    # -- hosts --------------------------------------------------------------------------------------------------------

    async def host(self, number: int) -> hosts_pb2.Host:
        """One host."""
        return await self.client.hosts.GetHost(hosts_pb2.GetHostRequest(name=f"hosts/h{number}"))

    async def link(
        self, number: int, state: "hosts_pb2.HostLinkState.ValueType", *, within_seconds: float = WAIT_SECONDS
    ) -> None:
        """Wait until a host's link has this state."""

        async def look() -> bool:
            return (await self.host(number)).status.link_state == state

        name = hosts_pb2.HostLinkState.Name(state)
        await until(look, what=f"host h{number} to be {name}", within_seconds=within_seconds)

    async def away(self, number: int, *, within_seconds: float = WAIT_SECONDS) -> None:
        """Wait until a host is not UP: DISCONNECTED, and soon after it perhaps lost, which is DOWN."""

        async def look() -> bool:
            return (await self.host(number)).status.link_state != hosts_pb2.HOST_LINK_STATE_UP

        await until(look, what=f"host h{number} to be away", within_seconds=within_seconds)

    # -- the end ------------------------------------------------------------------------------------------------------

    async def clean(self, keep: Iterable[str]) -> None:
        """Delete all instances, volumes, networks, security groups and templates of the project but the templates named by `keep`."""
        kept = {self.name("templates", last) for last in keep}
        while names := list(await self.instances()):
            # One that the test itself had begun to delete may be gone meanwhile, and then none is.
            with contextlib.suppress(NotFound):
                await self.delete(names, force=True, within_seconds=60)
        volumes = await self.client.volumes.ListVolumes(volumes_pb2.ListVolumesRequest(parent=self.project))
        for volume in volumes.volumes:
            with contextlib.suppress(NotFound):
                await self.client.volumes.DeleteVolume(volumes_pb2.DeleteVolumeRequest(name=volume.name))
        for name in await self.networks():
            try:
                await self.client.networks.DeleteNetwork(networks_pb2.DeleteNetworkRequest(name=name))
            except NotFound:
                continue
        request = security_groups_pb2.ListSecurityGroupsRequest(parent=self.project)
        page = await self.client.security_groups.ListSecurityGroups(request)
        for group in page.security_groups:
            await self.set_rules(group.name)  # so that none names another
        for group in page.security_groups:
            gone = security_groups_pb2.DeleteSecurityGroupRequest(name=group.name)
            await self.client.security_groups.DeleteSecurityGroup(gone)
        secrets = await self.client.secrets.ListSecrets(secrets_pb2.ListSecretsRequest(parent=self.project))
        for secret in secrets.secrets:
            await self.client.secrets.DeleteSecret(secrets_pb2.DeleteSecretRequest(name=secret.name))
        configs = await self.client.configs.ListConfigs(configs_pb2.ListConfigsRequest(parent=self.project))
        for config in configs.configs:
            await self.client.configs.DeleteConfig(configs_pb2.DeleteConfigRequest(name=config.name))
        for name, template in (await self.templates()).items():
            if template.status.state == templates_pb2.TEMPLATE_STATE_PENDING:
                await self.client.operations.CancelOperation(
                    operations_pb2.CancelOperationRequest(name=template.status.operation)
                )
            elif name not in kept:
                await self.delete_template(name)


def command_defaults(*command: str) -> templates_pb2.TemplateDefaults:
    """Defaults of a template with this command."""
    return templates_pb2.TemplateDefaults(command=command)


def entrypoint(*words: str) -> common_pb2.StringList:
    """An entrypoint."""
    return common_pb2.StringList(values=words)


def tar_of(files: Mapping[str, bytes], *, mode: int = 0o755) -> bytes:
    """A tar with these files."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            archive.addfile(member, io.BytesIO(content))
    return output.getvalue()


def pieces_of(path: Path) -> Iterable[bytes]:
    """A file, piece by piece."""
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            yield piece
