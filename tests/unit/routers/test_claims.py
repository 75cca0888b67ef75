"""What may not be taken twice."""

from dataclasses import replace

import pytest

from controlplane.domain.routers import Balancer, Listener, PortForward, RouterRule, SourceNat, StaticNat
from controlplane.routers.claims import claims_of_balancer, claims_of_rule, clashes
from tests.unit.routers.scenes import BACK, DB, FRONT, WEB, balancer, firewall, public, rule

ONE, TWO, SIX = public("one", "198.51.100.20"), public("two", "198.51.100.21"), public("six", "2001:db8::20")
PUBLICS = {found.name: found for found in (ONE, TWO, SIX)}


def forward(rule_id: str, first: int, last: int = 0, address: str = "", protocol: str = "tcp") -> RouterRule:
    return rule(rule_id, PortForward(address, protocol, first, last, WEB.name))


def static(rule_id: str, address: str, instance: str = WEB.name) -> RouterRule:
    return rule(rule_id, StaticNat(address, instance))


def source(rule_id: str, cidr: str, address: str = ONE.name) -> RouterRule:
    return rule(rule_id, SourceNat(cidr, address))


def pairs(*things: RouterRule | Balancer, held: tuple[RouterRule | Balancer, ...] = ()) -> set[tuple[str, str]]:
    """Last parts of the names of those that clash."""

    def claims(some: tuple[RouterRule | Balancer, ...]) -> list:  # type: ignore[type-arg]
        return [
            claim
            for thing in some
            for claim in (
                claims_of_rule(thing, PUBLICS) if isinstance(thing, RouterRule) else claims_of_balancer(thing)
            )
        ]

    return {
        (clash.wanted.holder.rpartition("/")[2], clash.held.holder.rpartition("/")[2])
        for clash in clashes(claims(things), claims(held))
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (forward("a", 80), forward("b", 80)),
        (forward("a", 80, 90), forward("b", 85)),
        (forward("a", 85), forward("b", 80, 90)),
        (forward("a", 80, 90), forward("b", 90, 95)),
        (forward("a", 1, 65535), forward("b", 500)),
        (forward("a", 53, protocol="udp"), forward("b", 53, protocol="udp")),
        (forward("a", 80, address=ONE.name), forward("b", 80, address=ONE.name)),
        (forward("a", 80), replace(forward("b", 80), spec=forward("b", 80, protocol="").spec)),
        (static("a", ONE.name), forward("b", 80, address=ONE.name)),
        (static("a", ONE.name), forward("b", 53, address=ONE.name, protocol="udp")),
        (static("a", ONE.name), static("b", ONE.name, DB.name)),
        (static("a", ONE.name), static("b", TWO.name)),
        (source("a", "10.1.0.0/24"), source("b", "10.1.0.0/25", TWO.name)),
        (source("a", "10.1.0.128/25"), source("b", "10.1.0.0/24")),
        (forward("a", 80), balancer("b")),
        (static("a", ONE.name), balancer("b", public_address=ONE.name)),
        (balancer("a"), balancer("b")),
        (balancer("a", inside_network=BACK.name), balancer("b", inside_network=BACK.name)),
    ],
)
def test_what_clashes(one: RouterRule | Balancer, other: RouterRule | Balancer) -> None:
    assert pairs(one, other) == {("b", "a")}, "in one request the later one is at fault"
    assert pairs(one, held=(other,)) == {("a", "b")}
    assert pairs(other, held=(one,)) == {("b", "a")}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (forward("a", 80), forward("b", 81)),
        (forward("a", 80, 90), forward("b", 91, 95)),
        (forward("a", 53), forward("b", 53, protocol="udp")),
        (forward("a", 80), forward("b", 80, address=ONE.name)),
        (forward("a", 80, address=TWO.name), forward("b", 80, address=ONE.name)),
        (static("a", ONE.name), forward("b", 80)),
        (static("a", ONE.name), static("b", TWO.name, DB.name)),
        (static("a", ONE.name), static("b", SIX.name)),
        (source("a", "10.1.0.0/25"), source("b", "10.1.0.128/25")),
        (source("a", "fd00:1::/64", SIX.name), source("b", "0.0.0.0/0")),
        (source("a", "10.1.0.0/24"), forward("b", 80, address=ONE.name)),
        (forward("a", 80, protocol="udp"), balancer("b")),
        (balancer("a"), balancer("b", inside_network=BACK.name)),
        (balancer("a", inside_network=FRONT.name), balancer("b", inside_network=BACK.name)),
        (firewall("a"), firewall("b")),
    ],
)
def test_what_goes_together(one: RouterRule | Balancer, other: RouterRule | Balancer) -> None:
    assert pairs(one, other) == set()
    assert pairs(one, held=(other,)) == set()


def test_a_balancer_may_clash_with_itself() -> None:
    twice = balancer("a")
    twice = replace(twice, spec=replace(twice.spec, listeners=(Listener(port=80), Listener(port=80))))
    (clash,) = clashes(claims_of_balancer(twice), [])
    assert (clash.wanted.field, clash.held.field) == ("listeners[1].port", "listeners[0].port")


def test_the_sentence_names_both() -> None:
    (clash,) = clashes(claims_of_rule(forward("a", 80, 90), PUBLICS), claims_of_balancer(balancer("b")))
    assert clash.problem == (
        "tcp 80-90 of the router's own outside address is taken by projects/demo/routers/edge/balancers/b "
        "(tcp 80 of the router's own outside address); change or delete one of the two"
    )


def test_many_are_compared_quickly() -> None:
    """A thousand among a thousand: each looks at its neighbours only."""
    held = [claim for n in range(1000) for claim in claims_of_rule(forward(f"h{n}", 2 * n + 1), PUBLICS)]
    wanted = [claim for n in range(1000) for claim in claims_of_rule(forward(f"w{n}", 2 * n + 2), PUBLICS)]
    assert clashes(wanted, held) == []
    assert len(clashes(held, held)) == 1000
