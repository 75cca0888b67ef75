"""Which hosts a group with one member a host is for."""

from controlplane.domain.groups import GroupMode
from controlplane.domain.hosts import HostAdminState, HostSettings
from controlplane.domain.instances import InstanceSpec, Placement
from controlplane.rollout.reading import read
from tests.unit.controlplane.world import P, World


async def test_hosts_that_are_not_for_it_get_no_member(world: World) -> None:
    await world.host("plain")
    await world.host("mine", settings=HostSettings(dedicated_to=(f"projects/{P}",)))
    await world.host("theirs", settings=HostSettings(dedicated_to=("projects/other",)))
    await world.host("tainted", settings=HostSettings(taints=("gpu=yes",)))
    await world.host("cordoned", admin_state=HostAdminState.CORDONED)

    async def seats(group_id: str, **placement: tuple[str, ...]) -> dict[str, bool]:
        spec = InstanceSpec("web", placement=Placement(**placement))  # type: ignore[arg-type]
        made = await world.group(group_id, 0, mode=GroupMode.PER_HOST, instance=spec)
        found = read(world.store.view(), made, world.clock.now()).seats
        return {seat.host: seat.takes_new for seat in found if seat.host not in ("h1", "h2")}

    async def open_seats(group_id: str, **placement: tuple[str, ...]) -> set[str]:
        return {host for host, is_open in (await seats(group_id, **placement)).items() if is_open}

    assert await open_seats("g") == {"plain", "mine"}
    assert await open_seats("h", tolerations=("gpu",)) == {"plain", "mine", "tainted"}
    # A member that is there stays, as on a host that is cordoned.
    assert (await seats("i"))["tainted"] is False
