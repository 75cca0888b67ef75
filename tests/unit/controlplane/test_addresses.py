"""Whatever is created, replaced, deleted and reported: the addresses that are leased are those of the instances."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controlplane.domain.instances import InstanceState, Nic
from controlplane.domain.kinds import ADDRESS, INSTANCE
from controlplane.domain.networks import DhcpHost, DhcpSpec
from controlplane.networks.macs import derived_mac
from controlplane.services.paging import PageRequest
from moorage.errors import Exhausted, InvalidSpec, MoorageError, NotReady
from tests.unit.controlplane.world import P, World, problems

_NAMES = ("a", "b", "c", "d", "e")
_FIXED = ("", "", "10.1.0.2", "10.1.0.5", "10.1.0.6", "10.1.0.1", "10.9.0.1")
_NICS = st.lists(
    st.builds(
        Nic,
        network=st.sampled_from(["tiny", "six", "default"]),
        interface=st.sampled_from(["", "", "eth1", "lan"]),
        addresses=st.sampled_from(_FIXED).map(lambda a: (a,) if a else ()),
        mac=st.sampled_from(["", "", "02:00:00:00:00:01", "02:6d:0a:01:00:02"]),
    ),
    max_size=3,
).map(tuple)


class Histories(RuleBasedStateMachine):
    """A /29 with five addresses for five names, so that it is often full."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.world = World()
        self.run(self._begin())

    def run(self, call: Any) -> None:
        """Refusals are part of life; a bug of ours is not."""

        async def guarded() -> None:
            try:
                await call
            except MoorageError as error:
                assert type(error).__name__ != "Internal", error

        self.runner.run(guarded())

    async def _begin(self) -> None:
        await self.world.begin()
        await self.world.network("tiny", "10.1.0.0/29")
        await self.world.network("six", "fd00:1::/64")
        await self.world.host("h")

    @rule(name=st.sampled_from(_NAMES), nics=_NICS)
    def create(self, name: str, nics: tuple[Nic, ...]) -> None:
        self.run(self.world.create(name, *nics))

    @rule(name=st.sampled_from(_NAMES), nics=_NICS)
    def replace(self, name: str, nics: tuple[Nic, ...]) -> None:
        found = self.world.store.view().get(INSTANCE, f"{P}/{name}")
        if found is not None:
            self.run(self.world.changes.replace(P, name, spec=replace(found.value.spec, nics=nics)))

    @rule(name=st.sampled_from(_NAMES), nics=_NICS)
    def replug(self, name: str, nics: tuple[Nic, ...]) -> None:
        self.run(self.world.changes.update(P, name, spec_fields={"nics": nics}))

    @rule(name=st.sampled_from(_NAMES), behind=st.integers(0, 2))
    def plugged(self, name: str, behind: int) -> None:
        found = self.world.store.view().get(INSTANCE, f"{P}/{name}")
        if found is not None and found.value.host_uid:
            generation = max(0, found.value.generation - behind)
            observed = found.value.observed
            fields = {"sequence": observed.sequence + 1, "network_generation": generation}
            self.run(self.world.report(found.value, InstanceState.RUNNING, **fields))

    @rule(name=st.sampled_from(_NAMES))
    def delete(self, name: str) -> None:
        self.run(self.world.instances.delete(P, [name]))

    @rule(name=st.sampled_from(_NAMES))
    def place(self, name: str) -> None:
        if self.world.store.view().get(INSTANCE, f"{P}/{name}") is not None:
            self.run(self.world.place(name, "h"))

    @rule(name=st.sampled_from(_NAMES), state=st.sampled_from([InstanceState.RUNNING, InstanceState.DELETED]))
    def report(self, name: str, state: InstanceState) -> None:
        found = self.world.store.view().get(INSTANCE, f"{P}/{name}")
        if found is not None and found.value.host_uid:
            sequence = found.value.observed.sequence + 1
            self.run(self.world.report(found.value, state, sequence=sequence))

    @rule()
    def lose_the_host(self) -> None:
        self.run(self.world.hosts.delete("h", force=True))
        self.run(self.world.host("h"))

    @rule(name=st.sampled_from(["tiny", "six", "default"]))
    def delete_network(self, name: str) -> None:
        self.run(self.world.networks.delete(P, name))
        if name == "tiny":
            self.run(self.world.network("tiny", "10.1.0.0/29"))

    @invariant()
    def books_are_right(self) -> None:
        self.world.audit()

    def teardown(self) -> None:
        self.run(self.world.store.close())
        self.runner.close()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


async def test_exhausted_and_free_again(world: World) -> None:
    await world.network("tiny", "10.1.0.0/29")
    for number in range(5):
        await world.create(f"i{number}", Nic("tiny"))
    with pytest.raises(Exhausted) as caught:
        await world.create("more", Nic("tiny"))
    assert caught.value.reason == "ADDRESSES_EXHAUSTED"
    assert caught.value.metadata["subnet"] == "10.1.0.0/29"
    freed = world.get("i3").nics[0].addresses
    await world.instances.delete(P, ["i3"])
    assert (await world.create("more", Nic("tiny"))).nics[0].addresses == freed


async def test_an_address_is_not_given_again_at_once(world: World) -> None:
    await world.network("n", "10.1.0.0/24")
    first = (await world.create("a", Nic("n"))).nics[0].addresses
    await world.instances.delete(P, ["a"])
    assert (await world.create("b", Nic("n"))).nics[0].addresses != first


async def test_what_dhcp_gives_to_a_machine_is_given_to_no_instance(world: World) -> None:
    machine = DhcpHost("02:00:00:00:00:09", "10.1.0.3")
    await world.network("n", "10.1.0.0/29", dhcp=DhcpSpec(enabled=True, hosts=(machine,)))
    made = [(await world.create(f"i{number}", Nic("n"))).nics[0].addresses[0] for number in range(4)]
    assert made == [f"10.1.0.{last}/29" for last in (2, 4, 5, 6)]
    with pytest.raises(Exhausted):
        await world.create("more", Nic("n"))
    other = DhcpHost("02:00:00:00:00:0a", "10.1.0.4")
    with pytest.raises(InvalidSpec) as refused:
        await world.networks.update(P, "n", dhcp=DhcpSpec(enabled=True, hosts=(machine, other)))
    assert problems(refused.value) == [("network.spec.dhcp.hosts[1].address", "ADDRESS_TAKEN")]
    named = await world.create("named", Nic("n", addresses=("10.1.0.3",)))
    assert named.nics[0].addresses == ("10.1.0.3/29",), "who names it means it"
    await world.networks.update(P, "n", dhcp=DhcpSpec(enabled=True, lease_time_seconds=600.0, hosts=(machine,)))


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("10.1.0.9", "ADDRESS_TAKEN"),
        ("10.1.0.1", "ADDRESS_RESERVED"),
        ("10.1.0.0", "ADDRESS_RESERVED"),
        ("10.1.0.255", "ADDRESS_RESERVED"),
        ("10.2.0.9", "ADDRESS_OUTSIDE_SUBNET"),
        ("fd00::9", "ADDRESS_OUTSIDE_SUBNET"),
        ("10.1.0.9/24", "ADDRESS_INVALID"),
        ("ten", "ADDRESS_INVALID"),
        ("10.1.0.9\n", "ADDRESS_INVALID"),
        ("fd00::9%x", "ADDRESS_INVALID"),
        ("010.1.0.7", "ADDRESS_INVALID"),
    ],
)
async def test_fixed_addresses_that_cannot_be(world: World, address: str, reason: str) -> None:
    await world.network("n", "10.1.0.0/24")
    await world.create("owner", Nic("n", addresses=("10.1.0.9",)))
    with pytest.raises(InvalidSpec) as caught:
        await world.create("i", Nic("n", addresses=(address,)))
    assert problems(caught.value) == [("instance.spec.nics[0].addresses[0]", reason)]


async def test_fixed_addresses_of_both_families(world: World) -> None:
    await world.network("n", "10.1.0.0/24", "fd00:1::/64")
    made = await world.create("i", Nic("n", addresses=("FD00:1::0:7", "10.1.0.7"), mac="02-00-00-00-00-0A"))
    assert made.nics[0].addresses == ("10.1.0.7/24", "fd00:1::7/64")
    assert made.nics[0].mac == "02:00:00:00:00:0a"
    assert made.nics[0].gateways == ("10.1.0.1", "fd00:1::1")
    half = await world.create("half", Nic("n", addresses=("fd00:1::8",)))
    assert half.nics[0].addresses == ("10.1.0.2/24", "fd00:1::8/64")
    several = await world.create("several", Nic("n", addresses=("10.1.0.9", "fd00:1::9", "10.1.0.8")))
    assert several.nics[0].addresses == ("10.1.0.9/24", "10.1.0.8/24", "fd00:1::9/64")
    with pytest.raises(InvalidSpec) as caught:
        await world.create("twice", Nic("n", addresses=("10.1.0.10", "10.1.0.10")))
    assert problems(caught.value) == [("instance.spec.nics[0].addresses[1]", "INVALID")]


async def test_macs(world: World) -> None:
    await world.network("n", "10.1.0.0/24")
    await world.network("m", "10.2.0.0/24")
    made = await world.create("i", Nic("n", mac="02:00:00:00:00:01"))
    with pytest.raises(InvalidSpec) as caught:
        await world.create("j", Nic("n", mac="02:00:00:00:00:01"))
    assert caught.value.reason == "MAC_TAKEN"
    await world.create("j", Nic("m", mac="02:00:00:00:00:01"))
    for bad in ("01:00:00:00:00:01", "00:00:00:00:00:00", "02:00:00:00:00", "ff:ff:ff:ff:ff:ff", "x"):
        with pytest.raises(InvalidSpec) as caught:
            await world.create("k", Nic("n", mac=bad))
        assert caught.value.reason == "MAC_INVALID"
    again = await world.changes.replace(P, "i", spec=made.spec)
    assert again.nics == made.nics
    with pytest.raises(InvalidSpec) as caught:
        await world.changes.replace(P, "i", spec=replace(made.spec, nics=(Nic("m", mac="02:00:00:00:00:01"),)))
    assert caught.value.reason == "MAC_TAKEN", "its own MAC elsewhere is not its own"


async def test_derived_macs_cannot_be_taken_by_others(world: World) -> None:
    """Else the member that gets the address by and by would have the MAC of another."""
    network = await world.network("n", "10.1.0.0/24")
    theirs = derived_mac(network.uid, "10.1.0.3")
    with pytest.raises(InvalidSpec) as caught:
        await world.create("i", Nic("n", mac=theirs))
    assert caught.value.reason == "MAC_TAKEN"
    assert (await world.create("i", Nic("n", addresses=("10.1.0.3",), mac=theirs))).nics[0].mac == theirs


async def test_several_interfaces(world: World) -> None:
    await world.network("n", "10.1.0.0/24")
    await world.network("same", "10.1.0.0/25")
    await world.network("m", "10.2.0.0/24", "fd00:2::/64")
    made = await world.create("i", Nic("n", "lan"), Nic("m"))
    assert [nic.interface for nic in made.nics] == ["lan", "eth1"]
    assert [nic.gateways for nic in made.nics] == [("10.1.0.1",), ("fd00:2::1",)], "one default route of a family"
    for nics, reason in (
        ((Nic("n"), Nic("n")), "SUBNET_OVERLAPS"),
        ((Nic("n"), Nic("same")), "SUBNET_OVERLAPS"),
        ((Nic("n", "x"), Nic("m", "x")), "INVALID"),
        ((Nic("n", "a-name-that-is-too-long"),), "INVALID"),
        ((Nic("n", "lo"),), "INVALID"),
        ((Nic("n", "a/b"),), "INVALID"),
    ):
        with pytest.raises(InvalidSpec) as caught:
            await world.create("j", *nics)
        assert [r for _, r in problems(caught.value)] == [reason]


async def test_addresses_are_listed_and_keep_the_network(world: World) -> None:
    network = await world.network("n", "10.1.0.0/24")
    for name in ("a", "b"):
        await world.create(name, Nic("n"))
    page = world.networks.addresses(P, "n", PageRequest(page_size=1))
    assert page.items[0].value.address == "10.1.0.2"
    rest = world.networks.addresses(P, "n", PageRequest(page_token=page.next_page_token))
    assert [item.value.address for item in rest.items] == ["10.1.0.3"]
    assert world.networks.hosts_and_addresses(network) == ((), 2)
    with pytest.raises(NotReady) as caught:
        await world.networks.delete(P, "n")
    assert caught.value.reason == "NETWORK_IN_USE"
    await world.instances.delete(P, ["a", "b"])
    await world.networks.delete(P, "n")
    assert world.store.view().count(ADDRESS) == 0
