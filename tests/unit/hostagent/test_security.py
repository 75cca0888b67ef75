"""The nftables text of security groups."""

from dataclasses import replace

import pytest

from hostagent.domain import (
    ContainerSpec,
    DesiredState,
    GroupMembers,
    InstanceAssignment,
    NicAssignment,
    NicFilter,
    RuleProtocol,
    SecurityDirection,
    SecurityGroup,
    SecurityRule,
)
from hostagent.executor.filters import filters_of
from hostagent.netlink import security
from moorage.errors import InvalidSpec
from moorage.ids import InstanceId, NetworkId

IN, OUT = SecurityDirection.IN, SecurityDirection.OUT
TCP, UDP, ICMP, ICMPV6 = RuleProtocol.TCP, RuleProtocol.UDP, RuleProtocol.ICMP, RuleProtocol.ICMPV6
NET = NetworkId("n1")
LB = GroupMembers("glb", NET, ("10.1.0.9", "fd00::9"))


def nic(*rules: SecurityRule, members: tuple[GroupMembers, ...] = (LB,), deny_out: bool = False) -> NicFilter:
    return NicFilter("eth0", NET, ("10.1.0.5", "fd00::5"), (SecurityGroup("g1", "web", rules, deny_out),), members)


def allowed(rule: SecurityRule) -> list[str]:
    """What a rule alone adds to its chain."""
    chain = "in-eth0" if rule.direction is IN else "out-eth0"
    head = f"add rule inet moorage {chain} "
    with_it = security.replacement([nic(rule)]).splitlines()
    always = security.replacement([nic(deny_out=True)]).splitlines()
    return [line.removeprefix(head) for line in with_it if line.startswith(head) and line not in always]


@pytest.mark.parametrize(
    ("rule", "lines"),
    [
        (SecurityRule(IN), ["accept"]),
        (SecurityRule(IN, TCP), ["meta l4proto tcp accept"]),
        (SecurityRule(IN, UDP, ("53", "8000-8010")), ["udp dport { 53, 8000-8010 } accept"]),
        (SecurityRule(IN, ICMP), ["meta nfproto ipv4 meta l4proto icmp accept"]),
        (SecurityRule(IN, ICMPV6, icmp_type=128), ["icmpv6 type 128 accept"]),
        (
            SecurityRule(IN, TCP, ("80",), cidrs=("10.0.0.0/8", "10.1.0.0/16", "fd00::/8")),
            ["ip saddr { 10.0.0.0/8 } tcp dport { 80 } accept", "ip6 saddr { fd00::/8 } tcp dport { 80 } accept"],
        ),
        (SecurityRule(OUT, TCP, ("443",), cidrs=("0.0.0.0/0",)), ["meta nfproto ipv4 tcp dport { 443 } accept"]),
        (SecurityRule(IN, cidrs=("::/0",)), ["meta nfproto ipv6 accept"]),
        (
            SecurityRule(OUT, TCP, ("80",), group="glb"),
            ["ip daddr @m4-glb-n1 tcp dport { 80 } accept", "ip6 daddr @m6-glb-n1 tcp dport { 80 } accept"],
        ),
        (SecurityRule(IN, ICMP, icmp_type=8, group="glb"), ["ip saddr @m4-glb-n1 icmp type 8 accept"]),
    ],
)
def test_each_kind_of_rule(rule: SecurityRule, lines: list[str]) -> None:
    assert allowed(rule) == lines


def test_what_leaves_is_free_until_a_group_says_otherwise() -> None:
    assert "out-eth0" not in security.replacement([nic(SecurityRule(IN))])
    assert "out-eth0 drop" in security.replacement([nic(SecurityRule(IN), deny_out=True)])
    assert "out-eth0 drop" in security.replacement([nic(SecurityRule(OUT, TCP))])


def test_two_groups_add_up() -> None:
    second = SecurityGroup("g2", "admin", (SecurityRule(IN, TCP, ("22",)), SecurityRule(OUT, TCP)))
    both = replace(nic(SecurityRule(IN, TCP, ("80",))), groups=(*nic(SecurityRule(IN, TCP, ("80",))).groups, second))
    text = security.replacement([both])
    assert "in-eth0 tcp dport { 80 } accept" in text
    assert "in-eth0 tcp dport { 22 } accept" in text
    assert "out-eth0 drop" in text


def test_each_chain_ends_with_a_drop_and_lets_answers_and_discovery_pass_first() -> None:
    lines = security.replacement([nic(SecurityRule(IN), SecurityRule(OUT))]).splitlines()
    for chain in ("in-eth0", "out-eth0"):
        rules = [line for line in lines if line.startswith(f"add rule inet moorage {chain} ")]
        assert rules[0].endswith("ct direction reply accept")
        assert "nd-neighbor-solicit" in rules[2]
        assert rules[-1].endswith(" drop")


def test_what_is_not_wanted_any_more_goes_after_nothing_uses_it() -> None:
    text = security.replacement(
        [nic()], ["in-eth0", "out-eth0", "in-eth1", "input", "stranger"], ["m4-old-n1", "other"]
    )
    lines = text.splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines if line.startswith("delete")] == [
        "in-eth1",
        "out-eth0",
        "m4-old-n1",
    ]
    assert max(i for i, line in enumerate(lines) if line.startswith("flush")) < lines.index(
        "delete chain inet moorage in-eth1"
    )


def test_members_alone_are_elements_alone() -> None:
    rule = SecurityRule(IN, group="glb")
    before = [nic(rule)]
    after = [nic(rule, members=(replace(LB, addresses=("10.1.0.8", "fd00::9")),))]
    assert security.difference(before, after) == (
        "add element inet moorage m4-glb-n1 { 10.1.0.8 }\ndelete element inet moorage m4-glb-n1 { 10.1.0.9 }\n"
    )
    assert security.difference(before, before) == ""
    assert security.difference(before, [nic(rule, members=())]) is None
    assert security.difference(before, [nic(SecurityRule(IN, TCP, group="glb"))]) is None
    assert security.difference(before, []) is None
    assert security.replacement([]) == security.removal()


def assignment(*nics: NicAssignment) -> InstanceAssignment:
    return InstanceAssignment(InstanceId("i1"), "web", "p", 1, 1, DesiredState.RUNNING, ContainerSpec(), nics)


def test_filters_of_an_instance() -> None:
    rule = SecurityRule(IN, group="glb")
    group = SecurityGroup("g1", "web", (rule,))
    plain = NicAssignment(NET, "eth0", "02:00:00:00:00:05", ("10.1.0.5/24",))
    grouped = replace(plain, name="eth1", network_id=NetworkId("n2"), security_groups=("g1",))
    assert filters_of(assignment(plain), {}, {}) == ()
    assert filters_of(assignment(plain, grouped), {}, {}) is None, "not known: it must wait"
    members = {("glb", NET): LB}
    (found,) = filters_of(assignment(plain, grouped), {"g1": group}, members) or ()
    assert (found.interface, found.addresses, found.groups) == ("eth1", ("10.1.0.5",), (group,))
    assert found.members == (GroupMembers("glb", NetworkId("n2")),), "members on another network are nobody here"
    (found,) = filters_of(assignment(replace(plain, security_groups=("g1",))), {"g1": group}, members) or ()
    assert found.members == (LB,)


@pytest.mark.parametrize(
    "bad",
    [
        replace(nic(), interface='eth0" accept'),
        replace(nic(), addresses=("10.1.0.5/24",)),
        nic(members=(GroupMembers("g }", NET),)),
        nic(members=(GroupMembers("g", NetworkId("n;")),)),
        nic(members=(GroupMembers("g", NET, ("10.1.0.9 } drop",)),)),
        nic(SecurityRule(IN, TCP, ("0",))),
        nic(SecurityRule(IN, TCP, ("90-80",))),
        nic(SecurityRule(IN, TCP, ("80, 81",))),
        nic(SecurityRule(IN, TCP, ("70000",))),
        nic(SecurityRule(IN, cidrs=("10.0.0.0/33",))),
        nic(SecurityRule(IN, ICMP, icmp_type=256)),
    ],
)
def test_what_is_no_address_port_or_name_becomes_no_rule(bad: NicFilter) -> None:
    for make in (lambda: security.replacement([bad]), lambda: security.difference([nic()], [bad])):
        with pytest.raises(InvalidSpec) as caught:
            make()
        assert caught.value.reason == "SECURITY_INVALID"
