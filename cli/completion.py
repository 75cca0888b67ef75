"""Shell completion: the scripts, and names from the control plane where that takes less than a second."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from cli.names import short
from cli.session import Session
from moorage.errors import MoorageError

if TYPE_CHECKING:
    from moorage.client import Client

_TIMEOUT_SECONDS = 1.0
Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def complete_names(collection: str) -> Completer:
    """Completes names of `instances`, `templates`, `networks`, `security_groups`, `groups`, `routers`, `public_addresses`, `volumes` or
    `hosts`."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        session = ctx.find_object(Session) or Session()

        async def work(client: "Client") -> list[str]:
            page = await _list(client, collection, session)
            return [short(found.name) for found in getattr(page, collection)]

        try:
            return [name for name in session.run(work) if name.startswith(incomplete)]
        except MoorageError:
            return []  # a shell that completes nothing is right; one that prints an error is not

    return complete


async def _list(client: "Client", collection: str, session: Session) -> Any:
    if collection == "instances":
        from moorage.v1 import instances_pb2

        instances = instances_pb2.ListInstancesRequest(parent=session.project, page_size=1000)
        return await client.instances.ListInstances(instances, timeout=_TIMEOUT_SECONDS)
    if collection == "templates":
        from moorage.v1 import templates_pb2

        templates = templates_pb2.ListTemplatesRequest(parent=session.project, page_size=1000)
        return await client.templates.ListTemplates(templates, timeout=_TIMEOUT_SECONDS)
    if collection == "networks":
        from moorage.v1 import networks_pb2

        networks = networks_pb2.ListNetworksRequest(parent=session.project, page_size=1000)
        return await client.networks.ListNetworks(networks, timeout=_TIMEOUT_SECONDS)
    if collection == "groups":
        from moorage.v1 import groups_pb2

        groups_of = groups_pb2.ListGroupsRequest(parent=session.project, page_size=1000)
        return await client.groups.ListGroups(groups_of, timeout=_TIMEOUT_SECONDS)
    if collection == "secrets":
        from moorage.v1 import secrets_pb2

        secrets = secrets_pb2.ListSecretsRequest(parent=session.project, page_size=1000)
        return await client.secrets.ListSecrets(secrets, timeout=_TIMEOUT_SECONDS)
    if collection == "configs":
        from moorage.v1 import configs_pb2

        configs = configs_pb2.ListConfigsRequest(parent=session.project, page_size=1000)
        return await client.configs.ListConfigs(configs, timeout=_TIMEOUT_SECONDS)
    if collection == "security_groups":
        from moorage.v1 import security_groups_pb2

        groups = security_groups_pb2.ListSecurityGroupsRequest(parent=session.project, page_size=1000)
        return await client.security_groups.ListSecurityGroups(groups, timeout=_TIMEOUT_SECONDS)
    if collection == "jobs":
        from moorage.v1 import jobs_pb2

        jobs = jobs_pb2.ListJobsRequest(parent=session.project, page_size=1000)
        return await client.jobs.ListJobs(jobs, timeout=_TIMEOUT_SECONDS)
    if collection == "cron_jobs":
        from moorage.v1 import jobs_pb2

        cron_jobs = jobs_pb2.ListCronJobsRequest(parent=session.project, page_size=1000)
        return await client.cron_jobs.ListCronJobs(cron_jobs, timeout=_TIMEOUT_SECONDS)
    if collection == "routers":
        from moorage.v1 import routers_pb2

        routers = routers_pb2.ListRoutersRequest(parent=session.project, page_size=1000)
        return await client.routers.ListRouters(routers, timeout=_TIMEOUT_SECONDS)
    if collection == "public_addresses":
        from moorage.v1 import public_addresses_pb2

        publics = public_addresses_pb2.ListPublicAddressesRequest(parent=session.project, page_size=1000)
        return await client.public_addresses.ListPublicAddresses(publics, timeout=_TIMEOUT_SECONDS)
    if collection == "volumes":
        from moorage.v1 import volumes_pb2

        volumes = volumes_pb2.ListVolumesRequest(parent=session.project, page_size=1000)
        return await client.volumes.ListVolumes(volumes, timeout=_TIMEOUT_SECONDS)
    from moorage.v1 import hosts_pb2

    return await client.hosts.ListHosts(hosts_pb2.ListHostsRequest(page_size=1000), timeout=_TIMEOUT_SECONDS)


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell, such as: moor completion bash > /etc/bash_completion.d/moor"""
    from click.shell_completion import get_completion_class

    from cli.main import moor

    script = get_completion_class(shell)
    assert script is not None  # the choice above is click's own list
    click.echo(script(moor, {}, "moor", "_MOOR_COMPLETE").source())
