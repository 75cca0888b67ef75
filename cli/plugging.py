"""network attach, tune, detach, add-address and remove-address: the interfaces of an instance that may be running.

Each reads the instance, changes the list of its interfaces, and sends it back with the etag that it read, so that two at once cannot undo
each other. The control plane and the host leave alone what is not different.
"""

from collections.abc import Callable, Mapping
from typing import Any

import click
from google.protobuf import field_mask_pb2

from cli.completion import complete_names
from cli.instance.lifecycle import no_wait_option, timeout_option
from cli.names import short
from cli.nics import apply_options
from cli.run_options import Decorator, add_options, many, one
from cli.session import Session, pass_session, project_option
from moorage.client import Client
from moorage.errors import InvalidSpec, NotFound
from moorage.units import parse_duration
from moorage.v1 import instances_pb2

_Change = Callable[[instances_pb2.Instance], list[instances_pb2.Nic]]

_network = click.argument("network", shell_complete=complete_names("networks"))
_instance = click.argument("instance", shell_complete=complete_names("instances"))
_addresses = click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")


_OPTIONS: tuple[Decorator, ...] = (
    click.option("--mtu", type=click.IntRange(min=0), help="Of the interface, in bytes; 0: the network's."),
    one("--rate-in", metavar="RATE", text="Limit of what comes to it, such as 10mbit; 0: none."),
    one("--rate-out", metavar="RATE", text="Limit of what it sends."),
    many("--route", metavar="CIDR[@GATEWAY]", text="Route through it."),
    many("--rule", metavar="RULE", text="Policy rule, such as 'from 10.1.0.5 table 100 via 10.1.0.1'."),
)


def nics_of(instance: instances_pb2.Instance) -> list[instances_pb2.Nic]:
    """The interfaces that an instance has, as its spec would have them: the one on the default network too, which nobody asks for."""
    if instance.spec.nics or instance.spec.no_network:
        return list(instance.spec.nics)
    return [instances_pb2.Nic(network=nic.network, interface=nic.interface) for nic in instance.status.nics]


def _is_on(nic: instances_pb2.Nic | instances_pb2.NicStatus, network: str) -> bool:
    return short(nic.network) == short(network)


def _found(instance: instances_pb2.Instance, network: str) -> tuple[list[instances_pb2.Nic], int]:
    nics = nics_of(instance)
    for index, nic in enumerate(nics):
        if _is_on(nic, network):
            return nics, index
    raise NotFound(f"{short(instance.name)} has no interface on {short(network)}", reason="NOT_ATTACHED")


def attached(instance: instances_pb2.Instance, wanted: instances_pb2.Nic) -> list[instances_pb2.Nic]:
    """With one interface more.

    Raises:
        InvalidSpec: it is on that network already.
    """
    nics = nics_of(instance)
    if any(_is_on(nic, wanted.network) for nic in nics):
        name = short(wanted.network)
        raise InvalidSpec.of("network", f"{short(instance.name)} is on {name}; see `moor network add-address`")
    return [*nics, wanted]


def detached(instance: instances_pb2.Instance, network: str) -> list[instances_pb2.Nic]:
    """Without its interface on a network. Raises NotFound."""
    nics, index = _found(instance, network)
    return nics[:index] + nics[index + 1 :]


def with_addresses(
    instance: instances_pb2.Instance, network: str, more: tuple[str, ...] = (), less: tuple[str, ...] = ()
) -> list[instances_pb2.Nic]:
    """With more and fewer addresses on a network; those that were given automatically stay too.

    Raises:
        NotFound: it is not on that network, or has not got an address that shall go.
    """
    nics, index = _found(instance, network)
    have = [
        address.partition("/")[0] for nic in instance.status.nics if _is_on(nic, network) for address in nic.addresses
    ]
    for address in less:
        if address not in have:
            raise NotFound(f"{short(instance.name)} has no address {address} on {short(network)}", reason="NO_ADDRESS")
    changed = instances_pb2.Nic()
    changed.CopyFrom(nics[index])
    del changed.addresses[:]
    changed.addresses.extend(dict.fromkeys([address for address in have if address not in less] + list(more)))
    return [*nics[:index], changed, *nics[index + 1 :]]


def tuned(instance: instances_pb2.Instance, network: str, options: Mapping[str, object]) -> list[instances_pb2.Nic]:
    """With other options of its interface on a network. Raises NotFound, InvalidSpec."""
    nics, index = _found(instance, network)
    changed = instances_pb2.Nic()
    changed.CopyFrom(nics[index])
    apply_options(changed, options)
    return [*nics[:index], changed, *nics[index + 1 :]]


def update_nics(session: Session, name: str, change: _Change, *, no_wait: bool, timeout: str) -> None:
    """Change the interfaces, wait until the host has them, and show them."""
    full_name = session.name_in_project("instances", name)
    seconds = parse_duration(timeout, field="timeout")

    async def work(client: Client) -> instances_pb2.Instance:
        found = await client.instances.GetInstance(instances_pb2.GetInstanceRequest(name=full_name))
        changed = instances_pb2.Instance(name=found.name, etag=found.etag)
        changed.spec.nics.extend(change(found))
        changed.spec.no_network = not changed.spec.nics
        mask = field_mask_pb2.FieldMask(paths=["spec.nics", "spec.no_network"])
        request = instances_pb2.UpdateInstanceRequest(instance=changed, update_mask=mask)
        updated = await client.instances.UpdateInstance(request)
        return updated if no_wait else await client.wait_nics(updated.name, seconds)

    for nic in session.run(work).status.nics:
        groups = f"  [{', '.join(map(short, nic.security_groups))}]" if nic.security_groups else ""
        click.echo(f"{nic.interface}  {short(nic.network)}  {', '.join(nic.addresses)}{groups}")


@click.command("attach")
@_network
@_instance
@click.option("--address", multiple=True, metavar="ADDRESS", help="Wanted address; default a free one of each subnet.")
@click.option("--interface", default="", metavar="NAME", help="Its name inside; default the first free ethN.")
@click.option("--mac-address", default="", metavar="MAC", help="Its MAC; default made from its address.")
@add_options(_OPTIONS)
@click.option("--security-group", "groups", multiple=True, metavar="GROUP", help="Filter it by this security group.")
@no_wait_option
@timeout_option
@project_option
@pass_session
def attach(
    session: Session,
    /,
    network: str,
    instance: str,
    address: tuple[str, ...],
    interface: str,
    mac_address: str,
    groups: tuple[str, ...],
    no_wait: bool,
    timeout: str,
    **options: Any,
) -> None:
    """Give an instance an interface on a network, also while it runs."""
    wanted = instances_pb2.Nic(
        network=session.name_in_project("networks", network),
        interface=interface,
        addresses=address,
        mac=mac_address,
        security_groups=[session.name_in_project("securityGroups", group) for group in groups],
    )
    apply_options(wanted, options)
    update_nics(session, instance, lambda found: attached(found, wanted), no_wait=no_wait, timeout=timeout)


@click.command("tune")
@_network
@_instance
@add_options(_OPTIONS)
@no_wait_option
@timeout_option
@project_option
@pass_session
def tune(session: Session, /, network: str, instance: str, no_wait: bool, timeout: str, **options: Any) -> None:
    """Change MTU, rate limits, routes and policy rules of an instance's interface, also while it runs.

    What is not given stays; an option that can be repeated replaces all that was there, and an empty one takes it away.
    """
    if not any(value not in (None, ()) for value in options.values()):
        raise click.UsageError("nothing to change: give an option")
    update_nics(session, instance, lambda i: tuned(i, network, options), no_wait=no_wait, timeout=timeout)


@click.command("detach")
@_network
@_instance
@no_wait_option
@timeout_option
@project_option
@pass_session
def detach(session: Session, network: str, instance: str, no_wait: bool, timeout: str) -> None:
    """Take an instance off a network, also while it runs; its addresses there are free once its host has done so."""
    update_nics(session, instance, lambda found: detached(found, network), no_wait=no_wait, timeout=timeout)


@click.command("add-address")
@_network
@_instance
@_addresses
@no_wait_option
@timeout_option
@project_option
@pass_session
def add_address(
    session: Session, network: str, instance: str, addresses: tuple[str, ...], no_wait: bool, timeout: str
) -> None:
    """Give an instance more addresses on a network that it is on."""
    update_nics(
        session, instance, lambda i: with_addresses(i, network, more=addresses), no_wait=no_wait, timeout=timeout
    )


@click.command("remove-address")
@_network
@_instance
@_addresses
@no_wait_option
@timeout_option
@project_option
@pass_session
def remove_address(
    session: Session, network: str, instance: str, addresses: tuple[str, ...], no_wait: bool, timeout: str
) -> None:
    """Take addresses off an instance. Of a subnet of which none is left, it keeps one."""
    update_nics(
        session, instance, lambda i: with_addresses(i, network, less=addresses), no_wait=no_wait, timeout=timeout
    )
