"""Figures of a router, read from all of its containers at once and summed: of edge hosts each has traffic of its own."""

import asyncio
from collections.abc import Iterable, Sequence

from controlplane.dispatch.streams import StreamBroker
from controlplane.domain.instances import Instance
from moorage.errors import MoorageError
from moorage.v1 import router_bundles_pb2

Answers = list[router_bundles_pb2.RouterFigures]


async def read_all(
    broker: StreamBroker, members: Sequence[Instance], wanted: router_bundles_pb2.RouterFiguresRequest
) -> tuple[list[Answers], list[str]]:
    """(what each member answered, names of those that did not), both in the order of the members.

    Raises: MoorageError: none answered; what the first one failed with.
    """
    results = await asyncio.gather(*(_read(broker, member, wanted) for member in members), return_exceptions=True)
    answers: list[Answers] = []
    missing: list[str] = []
    errors: list[MoorageError] = []
    for member, result in zip(members, results, strict=True):
        if isinstance(result, MoorageError):
            errors.append(result)
            missing.append(member.name)
        elif isinstance(result, BaseException):
            raise result
        else:
            answers.append(result)
    if errors and not answers:
        raise errors[0]
    return answers, missing


async def _read(broker: StreamBroker, member: Instance, wanted: router_bundles_pb2.RouterFiguresRequest) -> Answers:
    stream_id, stream = await broker.open(member.host_uid, member.uid, "router_figures", wanted)
    try:
        return [answer async for answer in stream.messages()]
    finally:
        broker.close(stream_id)


def sum_rules(answers: Iterable[Answers]) -> list[router_bundles_pb2.RuleFigure]:
    """In order of rule."""
    found: dict[str, router_bundles_pb2.RuleFigure] = {}
    for figure in (figure for member in answers for answer in member for figure in answer.rules):
        total = found.setdefault(figure.rule_id, router_bundles_pb2.RuleFigure(rule_id=figure.rule_id))
        total.packets += figure.packets
        total.bytes += figure.bytes
    return [found[rule_id] for rule_id in sorted(found)]


def sum_pools(answers: Iterable[Answers], balancer_id: str) -> dict[str, router_bundles_pb2.PoolFigure]:
    """The pools of a balancer by id. What a back end's state is, each member finds out by itself: the first one's word counts."""
    found: dict[str, router_bundles_pb2.PoolFigure] = {}
    for figure in (figure for member in answers for answer in member for figure in answer.pools):
        if figure.balancer_id != balancer_id:
            continue
        if figure.pool_id not in found:
            found[figure.pool_id] = router_bundles_pb2.PoolFigure()
            found[figure.pool_id].CopyFrom(figure)
            continue
        total = found[figure.pool_id]
        for name in ("in_flight", "queued", "total", "bytes_in", "bytes_out"):
            setattr(total, name, getattr(total, name) + getattr(figure, name))
        known = {backend.instance_id: backend for backend in total.backends}
        for backend in figure.backends:
            if backend.instance_id in known:
                known[backend.instance_id].in_flight += backend.in_flight
                known[backend.instance_id].total += backend.total
            else:
                total.backends.append(backend)
    return found
