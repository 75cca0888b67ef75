"""A later version of a secret reaches a group as an update does: some members at a time, and all in the end."""

from controlplane.domain.instances import InstanceSpec
from controlplane.domain.kinds import SECRET
from controlplane.domain.readiness import takes_traffic
from controlplane.domain.secrets import OnRotate, SecretUse
from controlplane.rotation.loop import Rotation
from controlplane.sealing import Sealer
from controlplane.services.secrets import SecretService
from tests.unit.controlplane.world import P
from tests.unit.rollout.test_loop import Groups
from tests.unit.rollout.test_loop import groups as groups


async def test_members_are_replaced_within_the_budget(groups: Groups) -> None:
    world = groups.world
    secrets = SecretService(world.context, Sealer(None), SECRET)
    await secrets.create(P, "db", {}, "", b"1")
    use = SecretUse("db", on_rotate=OnRotate.RESTART)
    await groups.make(3, InstanceSpec(template="web", secrets=(use,)))
    await groups.converge()
    before = {member.uid for member in groups.members()}
    await secrets.add_version(P, "db", b"2")
    rotation = Rotation(world.context)
    for _ in range(60):
        await rotation.reconcile_once()
        revision = world.store.view().revision
        await groups.rollout.reconcile_once()
        await groups.hosts_work()
        assert sum(takes_traffic(member) for member in groups.members()) >= 2
        if world.store.view().revision == revision:
            break
    after = groups.members()
    assert [member.slot for member in after] == [0, 1, 2]
    assert {member.pins[0].version for member in after} == {2}
    assert not before & {member.uid for member in after}
    world.audit()
