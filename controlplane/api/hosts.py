"""HostService and ZoneService."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import grpc

from controlplane.api import convert, masks, requests
from controlplane.domain.hosts import Host, HostAdminState, HostSettings
from controlplane.domain.names import parse_top
from controlplane.rebalance.loop import Rebalancer
from controlplane.services.host_drains import DrainWish, HostDrains
from controlplane.services.host_losses import HostLosses
from controlplane.services.hosts import HostService, ZoneService
from moorage.protoconv import from_proto, to_proto
from moorage.v1 import hosts_pb2, hosts_pb2_grpc, zones_pb2, zones_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]


class HostServicer(hosts_pb2_grpc.HostServiceServicer):
    """`heartbeat_of` gives the last heartbeat of a host's session; `release_brake` tells its agent."""

    def __init__(
        self,
        hosts: HostService,
        drains: HostDrains,
        losses: HostLosses,
        rebalancer: Rebalancer,
        heartbeat_of: Callable[[str], datetime | None],
        release_brake: Callable[[str], None],
    ) -> None:
        self._hosts = hosts
        self._drains = drains
        self._losses = losses
        self._rebalancer = rebalancer
        self._heartbeat_of = heartbeat_of
        self._release_brake = release_brake

    def _message(self, record: Host) -> hosts_pb2.Host:
        return convert.host(record, self._heartbeat_of(record.uid), self._hosts.instances_of(record.uid))

    async def ListHosts(self, request: hosts_pb2.ListHostsRequest, context: _Context) -> hosts_pb2.ListHostsResponse:
        page = self._hosts.list(requests.page(request))
        return hosts_pb2.ListHostsResponse(
            hosts=[self._message(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def GetHost(self, request: hosts_pb2.GetHostRequest, context: _Context) -> hosts_pb2.Host:
        return self._message(self._hosts.get(parse_top(request.name, "hosts")))

    async def UpdateHost(self, request: hosts_pb2.UpdateHostRequest, context: _Context) -> hosts_pb2.Host:
        paths = masks.paths(request.update_mask, request.host, ("labels", "zone", "settings"), "a host")
        zone = request.host.zone
        record = await self._hosts.update(
            parse_top(request.host.name, "hosts", "host.name"),
            labels=dict(request.host.labels) if "labels" in paths else None,
            zone=(parse_top(zone, "zones", "host.zone") if zone else "") if "zone" in paths else None,
            settings=from_proto(HostSettings, request.host.settings) if "settings" in paths else None,
            etag=request.host.etag,
            validate_only=request.validate_only,
        )
        return self._message(record)

    async def CordonHost(self, request: hosts_pb2.CordonHostRequest, context: _Context) -> hosts_pb2.Host:
        host_id = parse_top(request.name, "hosts")
        return self._message(await self._hosts.set_admin_state(host_id, HostAdminState.CORDONED, request.etag))

    async def UncordonHost(self, request: hosts_pb2.UncordonHostRequest, context: _Context) -> hosts_pb2.Host:
        host_id = parse_top(request.name, "hosts")
        return self._message(await self._hosts.set_admin_state(host_id, HostAdminState.ENABLED, request.etag))

    async def DrainHost(self, request: hosts_pb2.DrainHostRequest, context: _Context) -> hosts_pb2.Host:
        record = await self._drains.drain(
            parse_top(request.name, "hosts"),
            from_proto(DrainWish, request),
            etag=request.etag,
            validate_only=request.validate_only,
        )
        return self._message(record)

    async def DeleteHost(self, request: hosts_pb2.DeleteHostRequest, context: _Context) -> hosts_pb2.DeleteHostResponse:
        await self._hosts.delete(parse_top(request.name, "hosts"), etag=request.etag, force=request.force)
        return hosts_pb2.DeleteHostResponse()

    async def DeclareHostLost(self, request: hosts_pb2.DeclareHostLostRequest, context: _Context) -> hosts_pb2.Host:
        host_id = parse_top(request.name, "hosts")
        record = await self._losses.declare(host_id, etag=request.etag, validate_only=request.validate_only)
        return self._message(record)

    async def RebalanceHosts(
        self, request: hosts_pb2.RebalanceHostsRequest, context: _Context
    ) -> hosts_pb2.RebalanceHostsResponse:
        moves = await self._rebalancer.move(request.max_moves, validate_only=request.validate_only)
        told = [to_proto(move, hosts_pb2.RebalanceMove) for move in moves]
        return hosts_pb2.RebalanceHostsResponse(moves=told, automatic=self._rebalancer.is_on)

    async def ReleaseSweepBrake(self, request: hosts_pb2.ReleaseSweepBrakeRequest, context: _Context) -> hosts_pb2.Host:
        record = self._hosts.get(parse_top(request.name, "hosts"))
        self._release_brake(record.uid)
        return self._message(record)


class ZoneServicer(zones_pb2_grpc.ZoneServiceServicer):
    """Failure domains."""

    def __init__(self, zones: ZoneService) -> None:
        self._zones = zones

    async def CreateZone(self, request: zones_pb2.CreateZoneRequest, context: _Context) -> zones_pb2.Zone:
        record = await self._zones.create(
            request.zone_id,
            request.zone.description,
            validate_only=request.validate_only,
            **requests.retry("CreateZone", request),
        )
        return convert.zone(record)

    async def GetZone(self, request: zones_pb2.GetZoneRequest, context: _Context) -> zones_pb2.Zone:
        return convert.zone(self._zones.get(parse_top(request.name, "zones")))

    async def ListZones(self, request: zones_pb2.ListZonesRequest, context: _Context) -> zones_pb2.ListZonesResponse:
        page = self._zones.list(requests.page(request))
        return zones_pb2.ListZonesResponse(
            zones=[convert.zone(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def UpdateZone(self, request: zones_pb2.UpdateZoneRequest, context: _Context) -> zones_pb2.Zone:
        paths = masks.paths(request.update_mask, request.zone, ("description",), "a zone")
        record = await self._zones.update(
            parse_top(request.zone.name, "zones", "zone.name"),
            request.zone.description if "description" in paths else None,
            etag=request.zone.etag,
            validate_only=request.validate_only,
        )
        return convert.zone(record)

    async def DeleteZone(self, request: zones_pb2.DeleteZoneRequest, context: _Context) -> zones_pb2.DeleteZoneResponse:
        await self._zones.delete(parse_top(request.name, "zones"), etag=request.etag)
        return zones_pb2.DeleteZoneResponse()
