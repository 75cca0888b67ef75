"""network: isolated networks of our own, shared ones on a bridge of the hosts, and their addresses."""

from collections.abc import Callable, Collection
from typing import Any

import click
from google.protobuf import field_mask_pb2

from cli.completion import complete_names
from cli.names import short
from cli.output import Column, age, enum_word, output_option, pairs, print_list, print_one
from cli.plugging import add_address, attach, detach, remove_address, tune
from cli.session import Session, pass_session, project_option
from cli.spec import duration, key_values
from moorage.client import Client, paginate
from moorage.errors import InvalidSpec
from moorage.ids import new_id
from moorage.v1 import networks_pb2

COLUMNS = (
    Column("NAME", lambda network: short(network.name)),
    Column("KIND", lambda network: enum_word(networks_pb2.NetworkKind, network.spec.kind) or "ISOLATED"),
    Column("SUBNETS", lambda network: ",".join(subnet.cidr for subnet in network.spec.subnets)),
    Column("EGRESS", lambda network: "yes" if network.spec.egress else "no"),
    Column("ADDRESSES", lambda network: str(network.status.addresses_used)),
    Column("HOSTS", lambda network: str(len(network.status.hosts))),
    Column("AGE", lambda network: age(network.create_time)),
    Column("ROUTER", lambda network: short(network.status.router), wide=True),
    Column("VNI", lambda network: str(network.status.vni or ""), wide=True),
    Column("BRIDGE", lambda network: network.spec.bridge or network.spec.parent, wide=True),
    Column("MTU", lambda network: str(network.spec.mtu or ""), wide=True),
    Column("DOMAIN", lambda network: network.status.dns_domain, wide=True),
    Column("LABELS", lambda network: pairs(network.labels.items()), wide=True),
)

ADDRESS_COLUMNS = (
    Column("ADDRESS", lambda lease: lease.address),
    Column("OWNER", lambda lease: short(lease.owner)),
    Column("INTERFACE", lambda lease: lease.nic),
    Column("MAC", lambda lease: lease.mac),
    Column("AGE", lambda lease: age(lease.create_time)),
    Column("LEAVING", lambda lease: "yes" if lease.leaving else "", wide=True),
)

_NO_MODE = networks_pb2.MACVLAN_MODE_UNSPECIFIED
_PLUGS = {
    "bridge": (networks_pb2.SHARED_ATTACHMENT_BRIDGE, _NO_MODE),
    "macvlan": (networks_pb2.SHARED_ATTACHMENT_MACVLAN, networks_pb2.MACVLAN_MODE_BRIDGE),
    "macvlan-private": (networks_pb2.SHARED_ATTACHMENT_MACVLAN, networks_pb2.MACVLAN_MODE_PRIVATE),
    "macvlan-vepa": (networks_pb2.SHARED_ATTACHMENT_MACVLAN, networks_pb2.MACVLAN_MODE_VEPA),
    "macvlan-passthru": (networks_pb2.SHARED_ATTACHMENT_MACVLAN, networks_pb2.MACVLAN_MODE_PASSTHRU),
    "whole": (networks_pb2.SHARED_ATTACHMENT_WHOLE_NIC, _NO_MODE),
}


def parse_subnet(word: str) -> networks_pb2.Subnet:
    """`CIDR[,gateway=ADDRESS][,range=FIRST-LAST]...`.

    Raises:
        InvalidSpec: an unknown part. Whether it is a subnet, the control plane says.
    """
    cidr, *parts = word.split(",")
    subnet = networks_pb2.Subnet(cidr=cidr)
    for part in parts:
        key, _, value = part.partition("=")
        if key == "gateway":
            subnet.gateway = value
        elif key == "range":
            subnet.ranges.append(value)
        else:
            raise InvalidSpec.of("subnet", f"{word!r}: write 10.1.0.0/24,gateway=10.1.0.1,range=10.1.0.10-10.1.0.99")
    return subnet


def _dns_options(command: Callable[..., None]) -> Callable[..., None]:
    forwarding = click.option(
        "--dns-forwarding/--no-dns-forwarding", default=None, help="Whether names beyond the network are asked for."
    )
    forwarder = click.option(
        "--dns-forwarder", "forwarders", multiple=True, metavar="ADDRESS", help="Whom to ask; default: the hosts' own."
    )
    domain = click.option("--dns-domain", metavar="DOMAIN", help="Domain of the members; default NAME.internal.")
    return domain(forwarder(forwarding(command)))


@click.group("network")
def network() -> None:
    """Networks and their addresses."""


for command in (attach, tune, detach, add_address, remove_address):
    network.add_command(command)


def _dhcp_options(command: Callable[..., None]) -> Callable[..., None]:
    option = click.option(
        "--dhcp-option", "dhcp_options", multiple=True, metavar="CODE=VALUE", help="An option that is told; IPv4."
    )
    span = click.option(
        "--dhcp-range", "dhcp_ranges", multiple=True, metavar="FIRST-LAST", help="For whoever has no reservation."
    )
    host = click.option(
        "--dhcp-host", "dhcp_hosts", multiple=True, metavar="MAC,ADDRESS[,NAME]", help="A fixed address for a stranger."
    )
    lease = click.option("--dhcp-lease", default="", metavar="DURATION", help="Default 1h.")
    enabled = click.option("--dhcp/--no-dhcp", default=None, help="Whether the network's router answers DHCP.")
    return enabled(span(option(host(lease(command)))))


def _dhcp_spec(
    enabled: bool | None, ranges: tuple[str, ...], options: tuple[str, ...], hosts: tuple[str, ...], lease: str
) -> networks_pb2.DhcpSpec | None:
    """What the options say, of a network that has nothing yet; None: nothing."""
    if enabled is None and not (ranges or options or hosts or lease):
        return None
    spec = networks_pb2.DhcpSpec(enabled=enabled is not False, ranges=filter(None, ranges))
    if lease:
        spec.lease_time.CopyFrom(duration("--dhcp-lease", lease))
    for word in filter(None, options):
        code, _, value = word.partition("=")
        if not code.isdecimal() or not value:
            raise click.UsageError(f"--dhcp-option {word}: say CODE=VALUE, such as 42=192.0.2.1.")
        spec.options.add(code=int(code), value=value)
    for word in filter(None, hosts):
        mac, _, rest = word.partition(",")
        address, _, hostname = rest.partition(",")
        spec.hosts.add(mac=mac, address=address, hostname=hostname)
    return spec


def _dhcp_over(
    spec: networks_pb2.DhcpSpec, wanted: networks_pb2.DhcpSpec, named: Collection[str]
) -> networks_pb2.DhcpSpec:
    """A network's DHCP with these lists of `wanted` in place of its own; the others stay."""
    with_lease = wanted if wanted.HasField("lease_time") else spec
    return networks_pb2.DhcpSpec(
        enabled=wanted.enabled,
        ranges=(wanted if "ranges" in named else spec).ranges,
        options=(wanted if "options" in named else spec).options,
        hosts=(wanted if "hosts" in named else spec).hosts,
        lease_time=with_lease.lease_time if with_lease.HasField("lease_time") else None,
    )


@network.command("create")
@click.argument("name")
@click.option("--subnet", multiple=True, metavar="CIDR[,gateway=A][,range=A-B]", help="At most one IPv4 and one IPv6.")
@click.option("--egress", is_flag=True, help="Instances reach what lies beyond the host, by masquerade.")
@click.option("--shared-bridge", metavar="BRIDGE", help="A shared network on this bridge of the hosts.")
@click.option("--shared-nic", metavar="NIC", help="A shared network on this NIC of the hosts; see --plug.")
@click.option("--plug", type=click.Choice(sorted(_PLUGS)), help="How it is put on the NIC.")
@click.option("--vlan", type=click.IntRange(1, 4094), default=None, help="802.1Q VLAN of the NIC.")
@click.option("--dhcp-client", is_flag=True, help="A DHCP server outside gives addresses; instead of --subnet.")
@click.option("--mtu", type=click.IntRange(min=0), default=0, help="Of the instances' interfaces; default computed.")
@_dns_options
@_dhcp_options
@click.option("--label", "-l", multiple=True, metavar="K=V", help="Label of the network.")
@click.option("--validate-only", is_flag=True, help="Check only.")
@project_option
@output_option("name")
@pass_session
def create(
    session: Session,
    name: str,
    subnet: tuple[str, ...],
    egress: bool,
    shared_bridge: str | None,
    shared_nic: str | None,
    plug: str | None,
    vlan: int | None,
    dhcp_client: bool,
    mtu: int,
    dns_domain: str | None,
    forwarders: tuple[str, ...],
    dns_forwarding: bool | None,
    dhcp: bool | None,
    dhcp_ranges: tuple[str, ...],
    dhcp_options: tuple[str, ...],
    dhcp_hosts: tuple[str, ...],
    dhcp_lease: str,
    label: tuple[str, ...],
    validate_only: bool,
    output: str,
) -> None:
    """Make a network. An isolated one without --subnet gets free ones."""
    shared = networks_pb2.NETWORK_KIND_SHARED
    attachment, mode = _PLUGS[plug] if plug else (networks_pb2.SHARED_ATTACHMENT_UNSPECIFIED, _NO_MODE)
    spec = networks_pb2.NetworkSpec(
        kind=shared if shared_bridge or shared_nic else networks_pb2.NETWORK_KIND_ISOLATED,
        subnets=[parse_subnet(word) for word in subnet],
        egress=egress,
        bridge=shared_bridge or "",
        parent=shared_nic or "",
        attachment=attachment,
        macvlan_mode=mode,
        vlan_id=vlan or 0,
        dhcp_client=dhcp_client,
        mtu=mtu,
        dns=networks_pb2.NetworkDns(
            domain=dns_domain or "", forwarders=forwarders, no_forwarding=dns_forwarding is False
        ),
        dhcp=_dhcp_spec(dhcp, dhcp_ranges, dhcp_options, dhcp_hosts, dhcp_lease),
    )

    async def work(client: Client) -> networks_pb2.Network:
        request = networks_pb2.CreateNetworkRequest(
            parent=session.project,
            network_id=short(name),
            network=networks_pb2.Network(spec=spec, labels=key_values("label", label)),
            request_id=new_id(),
            validate_only=validate_only,
        )
        return await client.networks.CreateNetwork(request)

    print_one(session.run(work), COLUMNS, output)


@network.command("ls")
@click.option("-A", "--all-projects", is_flag=True, help="Of all projects that you may see.")
@click.option("--filter", "filter_text", default="", metavar="TERMS", help="Such as 'labels.app=web'.")
@project_option
@output_option()
@pass_session
def ls(session: Session, all_projects: bool, filter_text: str, output: str) -> None:
    """List networks."""

    async def work(client: Client) -> list[networks_pb2.Network]:
        request = networks_pb2.ListNetworksRequest(parent=session.parent(all_projects), filter=filter_text)
        return [found async for found in paginate(client.networks.ListNetworks, request, lambda page: page.networks)]

    print_list(session.run(work), COLUMNS, output)


@network.command("get")
@click.argument("name", shell_complete=complete_names("networks"))
@project_option
@output_option("yaml")
@pass_session
def get(session: Session, name: str, output: str) -> None:
    """Show one network."""

    async def work(client: Client) -> networks_pb2.Network:
        full_name = session.name_in_project("networks", name)
        return await client.networks.GetNetwork(networks_pb2.GetNetworkRequest(name=full_name))

    print_one(session.run(work), COLUMNS, output)


@network.command("update")
@click.argument("name", shell_complete=complete_names("networks"))
@click.option("--egress/--no-egress", default=None, help="Whether instances reach what lies beyond the host.")
@_dns_options
@_dhcp_options
@project_option
@output_option("name")
@pass_session
def update(
    session: Session,
    name: str,
    egress: bool | None,
    dns_domain: str | None,
    forwarders: tuple[str, ...],
    dns_forwarding: bool | None,
    dhcp: bool | None,
    dhcp_ranges: tuple[str, ...],
    dhcp_options: tuple[str, ...],
    dhcp_hosts: tuple[str, ...],
    dhcp_lease: str,
    output: str,
) -> None:
    """Open or close a network's way out, or change how names or DHCP are answered on it.

    --dns-forwarder replaces all that were named before; an empty one ('') goes back to the hosts' own. The options of
    DHCP replace what was said of the same kind before, and leave the rest; an empty one ('') leaves none of its kind.
    """
    changed = networks_pb2.Network()
    paths: list[str] = []
    if egress is not None:
        changed.spec.egress = egress
        paths.append("spec.egress")
    if dns_domain is not None:
        changed.spec.dns.domain = dns_domain
        paths.append("spec.dns.domain")
    if forwarders:
        changed.spec.dns.forwarders.extend(address for address in forwarders if address)
        paths.append("spec.dns.forwarders")
    if dns_forwarding is not None:
        changed.spec.dns.no_forwarding = not dns_forwarding
        paths.append("spec.dns.no_forwarding")
    wanted = _dhcp_spec(dhcp, dhcp_ranges, dhcp_options, dhcp_hosts, dhcp_lease)
    lists = {"ranges": dhcp_ranges, "options": dhcp_options, "hosts": dhcp_hosts}
    named = [name for name, words in lists.items() if words]
    if wanted is not None:
        paths.append("spec.dhcp")
    if not paths:
        raise click.UsageError("Say what to change, such as --egress; see --help.")

    async def work(client: Client) -> networks_pb2.Network:
        changed.name = session.name_in_project("networks", name)
        if wanted is not None:
            now = await client.networks.GetNetwork(networks_pb2.GetNetworkRequest(name=changed.name))
            changed.etag = now.etag
            changed.spec.dhcp.CopyFrom(_dhcp_over(now.spec.dhcp, wanted, named))
        mask = field_mask_pb2.FieldMask(paths=paths)
        return await client.networks.UpdateNetwork(networks_pb2.UpdateNetworkRequest(network=changed, update_mask=mask))

    print_one(session.run(work), COLUMNS, output)


@network.command("rm")
@click.argument("names", nargs=-1, required=True, shell_complete=complete_names("networks"))
@project_option
@pass_session
def rm(session: Session, names: tuple[str, ...]) -> None:
    """Delete networks without members."""

    async def work(client: Client) -> None:
        for name in names:
            full_name = session.name_in_project("networks", name)
            await client.networks.DeleteNetwork(networks_pb2.DeleteNetworkRequest(name=full_name))
            click.echo(f"Deleted {short(full_name)}.")

    session.run(work)


@network.command("addresses")
@click.argument("name", shell_complete=complete_names("networks"))
@project_option
@output_option()
@pass_session
def addresses(session: Session, name: str, output: str) -> None:
    """List the addresses that are given out, and to whom."""

    async def work(client: Client) -> list[Any]:
        request = networks_pb2.ListAddressesRequest(parent=session.name_in_project("networks", name))
        return [found async for found in paginate(client.networks.ListAddresses, request, lambda page: page.addresses)]

    leases = session.run(work)
    if output == "name":
        for lease in leases:
            click.echo(lease.address)
    else:
        print_list(leases, ADDRESS_COLUMNS, output)
