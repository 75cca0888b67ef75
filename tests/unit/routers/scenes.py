"""Short cuts for tests of routers: a project with two networks, a router between them and the outside, and instances."""

from dataclasses import replace
from typing import Any

from controlplane.domain.instances import Instance, InstanceNic, InstanceSpec
from controlplane.domain.networks import Network, NetworkKind, NetworkSpec, Subnet
from controlplane.domain.routers import (
    Backend,
    BackendPool,
    Balancer,
    BalancerSpec,
    FirewallRule,
    Listener,
    PortForward,
    PublicAddress,
    PublicAddressSpec,
    Router,
    RouterLeg,
    RouterRule,
    RouterRuleSpec,
    RouterSpec,
    SourceNat,
    StaticNat,
)
from controlplane.routers.bundle import member_id
from controlplane.routers.scene import RouterScene
from moorage.clock import ManualClock
from moorage.router_bundle import FirewallDirection

P = "demo"
NOW = ManualClock().now()
ROUTER_NAME = f"projects/{P}/routers/edge"


def network(network_id: str, *subnets: Subnet, **fields: Any) -> Network:
    """An isolated network."""
    spec = NetworkSpec(NetworkKind.ISOLATED, subnets, mtu=1450, **fields)
    return Network(f"uid-{network_id}", P, network_id, NOW, spec, 4096)


BACK = network("back", Subnet("10.1.0.0/24", "10.1.0.1"), Subnet("fd00:1::/64", "fd00:1::1"))
FRONT = network("front", Subnet("10.2.0.0/24", "10.2.0.1"))
OUTSIDE = network("outside", Subnet("198.51.100.0/24", "198.51.100.1"), egress=True)


def instance(instance_id: str, *nics: InstanceNic, **fields: Any) -> Instance:
    """An instance with these interfaces."""
    spec = InstanceSpec(template="web", hostname=instance_id)
    return Instance(f"uid-{instance_id}", P, instance_id, NOW, spec, spec, "t", "r@d", (), nics, **fields)


def nic(on: Network, *addresses: str, **fields: Any) -> InstanceNic:
    """An interface."""
    return InstanceNic(
        on.uid, on.name, fields.pop("interface", "eth0"), f"02:00:00:00:00:{len(addresses):02x}", addresses, **fields
    )


WEB = instance("web", nic(BACK, "10.1.0.5/24", "fd00:1::5/64"))
DB = instance("db", nic(FRONT, "10.2.0.6/24"))


def member(slot: str = "1", **fields: Any) -> Instance:
    """A container of the router."""
    nics = (
        nic(OUTSIDE, "198.51.100.9/24", gateways=("198.51.100.1",), lent_addresses=fields.pop("lent", ())),
        nic(BACK, "10.1.0.1/24", "fd00:1::1/64", interface="eth1", forwards=True),
        nic(FRONT, "10.2.0.1/24", interface="eth2", forwards=True),
    )
    return instance(member_id(router(), slot), *nics, owner=ROUTER_NAME, **fields)


def router(**fields: Any) -> Router:
    """A router between both networks and the outside."""
    spec = RouterSpec(
        legs=(RouterLeg(BACK.name), RouterLeg(FRONT.name)),
        outside_network=OUTSIDE.name,
        template="projects/system/templates/router",
        **{k: fields.pop(k) for k in list(fields) if k in RouterSpec.__dataclass_fields__},
    )
    return Router("uid-edge", P, "edge", NOW, spec, (BACK.uid, FRONT.uid), OUTSIDE.uid, **fields)


def rule(rule_id: str, what: SourceNat | StaticNat | PortForward | FirewallRule) -> RouterRule:
    """A rule of it."""
    field = {
        SourceNat: "source_nat",
        StaticNat: "static_nat",
        PortForward: "port_forward",
        FirewallRule: "firewall",
    }[type(what)]
    spec = RouterRuleSpec(**{field: what})  # type: ignore[arg-type]
    return RouterRule(f"uid-{rule_id}", P, "edge", "uid-edge", rule_id, NOW, spec)


def firewall(rule_id: str, order: int = 0, **fields: Any) -> RouterRule:
    """A firewall rule of it."""
    return rule(rule_id, FirewallRule(direction=fields.pop("direction", FirewallDirection.IN), order=order, **fields))


def public(address_id: str, address: str) -> PublicAddress:
    """A public address of its outside."""
    return PublicAddress(f"uid-{address_id}", P, address_id, NOW, PublicAddressSpec(OUTSIDE.name), OUTSIDE.uid, address)


def balancer(balancer_id: str, **listener: Any) -> Balancer:
    """A balancer of it."""
    spec = BalancerSpec(
        listeners=(Listener(**{"port": 80, **listener}),), pools=(BackendPool("p", (Backend(WEB.name, 8080),)),)
    )
    return Balancer(f"uid-{balancer_id}", P, "edge", "uid-edge", balancer_id, NOW, spec)


def scene(*rules: RouterRule, **fields: Any) -> RouterScene:
    """The router with these rules."""
    publics = [public("one", "198.51.100.20"), public("two", "198.51.100.21")]
    base = RouterScene(
        router=router(),
        outside=OUTSIDE,
        legs=(BACK, FRONT),
        members=(member(),),
        rules=rules,
        public_addresses={p.name: p for p in publics},
        instances={i.name: i for i in (WEB, DB)},
    )
    return replace(base, **fields)
