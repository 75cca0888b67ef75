"""Balancers of the control plane made of dictionaries (plane.py)."""

from typing import Any

import grpc

from moorage.v1 import balancers_pb2, balancers_pb2_grpc


class Balancers(balancers_pb2_grpc.BalancerServiceServicer):
    """As the control plane does, it gives no private key back, and keeps that of a certificate that comes without one."""

    def __init__(self, plane: Any) -> None:
        self.plane = plane
        self.keys: dict[str, str] = {}

    def _keep(self, balancer: Any) -> Any:
        for listener in balancer.spec.listeners:
            for one in listener.certificates:
                if one.private_key_pem:
                    self.keys[one.certificate_pem] = one.private_key_pem
                assert one.certificate_pem in self.keys
                one.ClearField("private_key_pem")
        self.plane.put(balancer)
        return balancer

    def CreateBalancer(self, request: Any, context: Any) -> Any:
        balancer = balancers_pb2.Balancer()
        balancer.CopyFrom(request.balancer)
        balancer.name = f"{request.parent}/balancers/{request.balancer_id}"
        return balancer if request.validate_only else self._keep(balancer)

    def GetBalancer(self, request: Any, context: Any) -> Any:
        return self.plane.get(request.name)

    def ListBalancers(self, request: Any, context: Any) -> Any:
        found = self.plane.listed(balancers_pb2.Balancer, request.parent)
        return balancers_pb2.ListBalancersResponse(balancers=found)

    def UpdateBalancer(self, request: Any, context: Any) -> Any:
        balancer = self.plane.get(request.balancer.name)
        request.update_mask.MergeMessage(request.balancer, balancer, True, True)
        return self._keep(balancer)

    def DeleteBalancer(self, request: Any, context: Any) -> Any:
        self.plane.get(request.name)
        self.plane.remove(request.name)
        return balancers_pb2.DeleteBalancerResponse()

    def GetBalancerStatistics(self, request: Any, context: Any) -> Any:
        balancer = self.plane.get(request.name)
        return balancers_pb2.GetBalancerStatisticsResponse(
            pools=[
                balancers_pb2.PoolStatistics(
                    pool=pool.id,
                    in_flight=3,
                    queued=1,
                    total=7,
                    backends=[
                        balancers_pb2.BackendStatistics(
                            instance=b.instance, state="down", check="Connection refused", in_flight=3, total=7
                        )
                        for b in pool.backends
                    ],
                )
                for pool in balancer.spec.pools
            ]
        )


def add_to(server: grpc.Server, plane: Any) -> None:
    """Serve them."""
    balancers_pb2_grpc.add_BalancerServiceServicer_to_server(Balancers(plane), server)
