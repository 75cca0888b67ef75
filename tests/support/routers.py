"""Routers of a test's project, asked for as a client does, and waited for until what was asked is in force."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import field_mask_pb2

from moorage.errors import MoorageError
from moorage.v1 import (
    balancers_pb2,
    public_addresses_pb2,
    router_rules_pb2,
    routers_pb2,
)
from tests.support.plane import Plane, until

ALLOW, DENY = router_rules_pb2.FIREWALL_ACTION_ALLOW, router_rules_pb2.FIREWALL_ACTION_DENY
IN, OUT, ACROSS = (
    router_rules_pb2.FIREWALL_DIRECTION_IN,
    router_rules_pb2.FIREWALL_DIRECTION_OUT,
    router_rules_pb2.FIREWALL_DIRECTION_ACROSS,
)
TCP, UDP, ICMP = (
    router_rules_pb2.TRAFFIC_PROTOCOL_TCP,
    router_rules_pb2.TRAFFIC_PROTOCOL_UDP,
    router_rules_pb2.TRAFFIC_PROTOCOL_ICMP,
)
WAIT_SECONDS = 30.0


class Routers:
    """What a test does with routers."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.client = plane.client

    async def create(
        self, router_id: str, *networks: str, host: int | None = None, **fields: Any
    ) -> routers_pb2.Router:
        """Make a router and wait until it is active.

        Args:
            networks: behind it; `back=deny` lets nothing out by default.
            host: number of the host that it shall be on.
        """
        spec = routers_pb2.RouterSpec(**fields)
        for word in networks:
            name, _, egress = word.partition("=")
            action = routers_pb2.DEFAULT_ACTION_DENY if egress == "deny" else routers_pb2.DEFAULT_ACTION_ALLOW
            spec.legs.add(network=name, egress=action)
        if host is not None:
            spec.placement.host = f"hosts/h{host}"
        await self.client.routers.CreateRouter(
            routers_pb2.CreateRouterRequest(
                parent=self.plane.project, router_id=router_id, router=routers_pb2.Router(spec=spec)
            )
        )
        return await self.active(router_id)

    async def get(self, router_id: str) -> routers_pb2.Router:
        """One router."""
        name = self.plane.name("routers", router_id)
        return await self.client.routers.GetRouter(routers_pb2.GetRouterRequest(name=name))

    async def active(self, router_id: str, within_seconds: float = WAIT_SECONDS) -> routers_pb2.Router:
        """Wait until a router runs its newest configuration."""

        async def look() -> routers_pb2.Router | None:
            found = await self.get(router_id)
            return found if found.status.state == routers_pb2.ROUTER_STATE_ACTIVE else None

        found = await until(look, what=f"router {router_id} is active", within_seconds=within_seconds)
        assert found is not None
        return found

    async def rule(self, router_id: str, rule_id: str, **spec: Any) -> float:
        """Make a rule and wait until it is in force. Returns the time that it took, in seconds."""
        begin = time.monotonic()
        await self.client.router_rules.CreateRouterRule(
            router_rules_pb2.CreateRouterRuleRequest(
                parent=self.plane.name("routers", router_id),
                rule_id=rule_id,
                rule=router_rules_pb2.RouterRule(spec=router_rules_pb2.RouterRuleSpec(**spec)),
            )
        )
        name = f"{self.plane.name('routers', router_id)}/rules/{rule_id}"

        async def look() -> bool:
            request = router_rules_pb2.GetRouterRuleRequest(name=name)
            return (await self.client.router_rules.GetRouterRule(request)).status.active

        await until(look, what=f"rule {rule_id} is in force")
        return time.monotonic() - begin

    async def firewall(
        self,
        router_id: str,
        rule_id: str,
        direction: "router_rules_pb2.FirewallDirection.ValueType",
        action: "router_rules_pb2.FirewallAction.ValueType" = ALLOW,
        **fields: Any,
    ) -> None:
        """Make a firewall rule and wait until it is in force."""
        wanted = router_rules_pb2.FirewallRule(direction=direction, action=action, **fields)
        await self.rule(router_id, rule_id, firewall=wanted)

    async def delete_rule(self, router_id: str, rule_id: str) -> None:
        """Delete a rule and wait until it is out of force."""
        name = f"{self.plane.name('routers', router_id)}/rules/{rule_id}"
        await self.client.router_rules.DeleteRouterRule(router_rules_pb2.DeleteRouterRuleRequest(name=name))
        await self.active(router_id)

    async def public_address(self, address_id: str, network: str, **fields: Any) -> str:
        """Take a public address; the address."""
        spec = public_addresses_pb2.PublicAddressSpec(network=network, **fields)
        made = await self.client.public_addresses.CreatePublicAddress(
            public_addresses_pb2.CreatePublicAddressRequest(
                parent=self.plane.project,
                address_id=address_id,
                public_address=public_addresses_pb2.PublicAddress(spec=spec),
            )
        )
        return made.status.address

    async def balancer(
        self,
        router_id: str,
        balancer_id: str,
        backends: Mapping[str, int],
        *,
        port: int,
        listener: Mapping[str, Any] | None = None,
        pool: Mapping[str, Any] | None = None,
        groups: Mapping[str, int] | None = None,
        **spec: Any,
    ) -> None:
        """Make a balancer with one listener and one pool, and wait until it is in force.

        Args:
            backends: instance to port.
            groups: group to port of its members.
        """
        wanted = balancers_pb2.BalancerSpec(**spec)
        wanted.listeners.add(port=port, **(listener or {}))
        members = [balancers_pb2.Backend(instance=name, port=number) for name, number in backends.items()]
        members += [balancers_pb2.Backend(group=name, port=number) for name, number in (groups or {}).items()]
        wanted.pools.add(id="main", backends=members, **(pool or {}))
        await self.client.balancers.CreateBalancer(
            balancers_pb2.CreateBalancerRequest(
                parent=self.plane.name("routers", router_id),
                balancer_id=balancer_id,
                balancer=balancers_pb2.Balancer(spec=wanted),
            )
        )
        name = f"{self.plane.name('routers', router_id)}/balancers/{balancer_id}"

        async def look() -> bool:
            return (await self.client.balancers.GetBalancer(balancers_pb2.GetBalancerRequest(name=name))).status.active

        await until(look, what=f"balancer {balancer_id} is in force")

    async def drain(self, router_id: str, balancer_id: str, instance: str, is_drained: bool) -> None:
        """Let a back end drain, or take part again, and wait until that is in force."""
        name = f"{self.plane.name('routers', router_id)}/balancers/{balancer_id}"
        found = await self.client.balancers.GetBalancer(balancers_pb2.GetBalancerRequest(name=name))
        for backend in found.spec.pools[0].backends:
            if backend.instance == self.plane.name("instances", instance):
                backend.drain = is_drained
        await self.client.balancers.UpdateBalancer(
            balancers_pb2.UpdateBalancerRequest(
                balancer=found, update_mask=field_mask_pb2.FieldMask(paths=["spec.pools"])
            )
        )
        await self.active(router_id)

    async def routers(self) -> Sequence[routers_pb2.Router]:
        """All of the project."""
        request = routers_pb2.ListRoutersRequest(parent=self.plane.project, page_size=1000)
        return list((await self.client.routers.ListRouters(request)).routers)

    async def clean(self) -> None:
        """Delete every router and public address, and wait until their containers are gone."""
        for router in await self.routers():
            await self.client.routers.DeleteRouter(routers_pb2.DeleteRouterRequest(name=router.name, force=True))

        async def are_gone() -> bool:
            return not await self.routers()

        await until(are_gone, what="the end of the routers", within_seconds=60.0)
        listing = public_addresses_pb2.ListPublicAddressesRequest(parent=self.plane.project, page_size=1000)
        for address in (await self.client.public_addresses.ListPublicAddresses(listing)).public_addresses:
            request = public_addresses_pb2.DeletePublicAddressRequest(name=address.name)
            await self.client.public_addresses.DeletePublicAddress(request)


async def refusal(call: Any) -> MoorageError:
    """What a call is refused with."""
    try:
        await call
    except MoorageError as error:
        return error
    raise AssertionError("it was not refused")
