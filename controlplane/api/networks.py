"""NetworkService."""

from dataclasses import fields
from typing import Any

import grpc

from controlplane.api import convert, masks, requests
from controlplane.domain.kinds import GROUP, GROUP_SLOT, INSTANCE, PUBLIC_ADDRESS
from controlplane.domain.names import parse_child
from controlplane.domain.networks import DhcpSpec, Network, NetworkDns, NetworkSpec
from controlplane.services.networks import NetworkService
from moorage.store.base import Store, View
from moorage.v1 import networks_pb2, networks_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]
_DNS_FIELDS = tuple(field.name for field in fields(NetworkDns))


class NetworkServicer(networks_pb2_grpc.NetworkServiceServicer):
    """Networks."""

    def __init__(self, networks: NetworkService, store: Store) -> None:
        self._networks = networks
        self._store = store

    def _message(self, record: Network) -> networks_pb2.Network:
        return convert.network(
            record, *self._networks.hosts_and_addresses(record), self._networks.router_before(record)
        )

    async def CreateNetwork(
        self, request: networks_pb2.CreateNetworkRequest, context: _Context
    ) -> networks_pb2.Network:
        record = await self._networks.create(
            requests.parent_of(request),
            request.network_id,
            dict(request.network.labels),
            requests.read(NetworkSpec, request.network.spec, "network.spec"),
            validate_only=request.validate_only,
            **requests.retry("CreateNetwork", request),
        )
        return self._message(record)

    async def GetNetwork(self, request: networks_pb2.GetNetworkRequest, context: _Context) -> networks_pb2.Network:
        return self._message(self._networks.get(*parse_child(request.name, "networks")))

    async def ListNetworks(
        self, request: networks_pb2.ListNetworksRequest, context: _Context
    ) -> networks_pb2.ListNetworksResponse:
        page = self._networks.list(requests.parent_of(request), requests.page(request), requests.visible())
        return networks_pb2.ListNetworksResponse(
            networks=[self._message(item.value) for item in page.items], next_page_token=page.next_page_token
        )

    async def UpdateNetwork(
        self, request: networks_pb2.UpdateNetworkRequest, context: _Context
    ) -> networks_pb2.Network:
        network = request.network
        allowed = ("labels", "spec.egress", "spec.dhcp", *(f"spec.dns.{name}" for name in _DNS_FIELDS))
        paths = masks.paths(request.update_mask, network, allowed, "a network")
        dns = requests.read(NetworkDns, network.spec.dns, "network.spec.dns")
        record = await self._networks.update(
            *parse_child(network.name, "networks", "network.name"),
            labels=dict(network.labels) if "labels" in paths else None,
            egress=network.spec.egress if "spec.egress" in paths else None,
            dns={name: getattr(dns, name) for name in _DNS_FIELDS if f"spec.dns.{name}" in paths},
            dhcp=requests.read(DhcpSpec, network.spec.dhcp, "network.spec.dhcp") if "spec.dhcp" in paths else None,
            etag=network.etag,
            validate_only=request.validate_only,
        )
        return self._message(record)

    async def DeleteNetwork(
        self, request: networks_pb2.DeleteNetworkRequest, context: _Context
    ) -> networks_pb2.DeleteNetworkResponse:
        await self._networks.delete(*parse_child(request.name, "networks"), etag=request.etag)
        return networks_pb2.DeleteNetworkResponse()

    async def ListAddresses(
        self, request: networks_pb2.ListAddressesRequest, context: _Context
    ) -> networks_pb2.ListAddressesResponse:
        project_id, network_id = parse_child(request.parent, "networks", "parent")
        page = self._networks.addresses(project_id, network_id, requests.page(request))
        view = self._store.view()
        messages = []
        for item in page.items:
            owner = _owner_name(view, item.value.owner_uid)
            messages.append(convert.address_lease(item.value, request.parent, owner))
        return networks_pb2.ListAddressesResponse(addresses=messages, next_page_token=page.next_page_token)


def _owner_name(view: View, uid: str) -> str:
    """Of the instance, public address or group that holds an address; empty when none does any more."""
    instances = view.find(INSTANCE, "uid", uid)
    if instances:
        return instances[0].value.name
    publics = view.find(PUBLIC_ADDRESS, "uid", uid)
    if publics:
        return publics[0].value.name
    slots = view.find(GROUP_SLOT, "uid", uid)
    groups = view.find(GROUP, "uid", slots[0].value.group_uid) if slots else []
    return groups[0].value.name if groups else ""
