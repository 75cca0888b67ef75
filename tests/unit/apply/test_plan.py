"""The plan of `moor apply`: nothing to do when all is as it shall be, what is needed comes first, and what is owned is never pruned."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cli.apply.nouns import BY_KIND, NOUNS
from cli.apply.plan import Create, Found, Keep, Replace, Update, changed_paths, in_order, plan
from cli.apply.read import Document
from moorage.v1 import groups_pb2, instances_pb2, router_rules_pb2, volumes_pb2

P = "projects/default"


def document(kind: str, name: str, **fields: Any) -> Document:
    noun = BY_KIND[kind]
    full = noun.full_name(P, name)
    return Document("a.yaml document 1", noun, full, noun.message(name=full, **fields))


def group(name: str, *needs: str, **fields: Any) -> Document:
    spec = groups_pb2.GroupSpec(depends_on=[groups_pb2.Dependency(target=need) for need in needs], **fields)
    return document("Group", name, spec=spec)


CHAIN = [
    document("Network", "shop"),
    document("SecurityGroup", "front"),
    document("Router", "edge"),
    group("db"),
    group("api", "groups/db"),
    group("web", f"{P}/groups/api"),
    document("RouterRule", "edge/r"),
]


@given(st.permutations(CHAIN))
def test_what_is_needed_comes_first_however_it_is_written(written: list[Document]) -> None:
    ordered = in_order(written)
    assert sorted(one.name for one in ordered) == sorted(one.name for one in CHAIN)
    assert [one.noun.rank for one in ordered] == sorted(one.noun.rank for one in ordered)
    groups = [one.label for one in ordered if one.noun.kind == "Group"]
    assert groups == ["Group/db", "Group/api", "Group/web"]
    assert in_order(ordered) == ordered


def test_those_that_need_each_other_are_left_to_the_control_plane() -> None:
    pair = [group("a", "groups/b"), group("b", "groups/a")]
    assert {one.name for one in in_order(pair)} == {one.name for one in pair}


@given(st.sets(st.integers(0, len(CHAIN) - 1)))
def test_nothing_to_do_when_all_is_so_and_any_prefix_can_be_gone_on_from(there: set[int]) -> None:
    found = {CHAIN[index].name: Found(CHAIN[index].message, CHAIN[index].message) for index in there}
    made = plan(CHAIN, found)
    assert [type(step) for step in made.steps].count(Keep) == len(there)
    for step in made.steps:
        if isinstance(step, Create):
            found[step.document.name] = Found(step.document.message, step.document.message)
            again = plan(CHAIN, found)
            assert [s.document.name for s in again.steps if isinstance(s, Create)] == [
                s.document.name for s in made.steps if isinstance(s, Create) and s.document.name not in found
            ]
    assert all(isinstance(step, Keep) for step in plan(CHAIN, found).steps)
    assert made == plan(CHAIN, {name: one for name, one in found.items() if name in {CHAIN[i].name for i in there}})


def test_an_update_says_what_changes() -> None:
    wanted = group("web", replicas=3)
    now = groups_pb2.Group(name=wanted.name, etag="e", spec=groups_pb2.GroupSpec(replicas=2), delete_protection=True)
    after = groups_pb2.Group(name=wanted.name, spec=groups_pb2.GroupSpec(replicas=3))
    (step,) = plan([wanted], {wanted.name: Found(now, after)}).steps
    assert isinstance(step, Update)
    assert (step.etag, step.paths) == ("e", ("delete_protection", "spec.replicas"))


def test_an_instance_that_needs_a_new_container() -> None:
    wanted = document("Instance", "one", spec=instances_pb2.InstanceSpec(env={"A": "1"}))
    now = instances_pb2.Instance(name=wanted.name, etag="e")
    (step,) = plan([wanted], {wanted.name: Found(now, wanted.message, ("env",))}).steps
    assert isinstance(step, Replace)
    assert "env" in step.why


def test_what_cannot_be_changed_is_said() -> None:
    wanted = document("Volume", "data", spec=volumes_pb2.VolumeSpec(size_bytes=5, host="h1"))
    now = volumes_pb2.Volume(name=wanted.name, spec=volumes_pb2.VolumeSpec(size_bytes=4, host="hosts/h1"))
    (step,) = plan([wanted], {wanted.name: Found(now, now)}).steps
    assert isinstance(step, Keep)
    assert step.fixed == ("spec.size_bytes",), "a name may be stored in full"


def test_which_of_several_messages_is_there_is_a_difference() -> None:
    rule = BY_KIND["RouterRule"]
    one = router_rules_pb2.RouterRule(spec=router_rules_pb2.RouterRuleSpec(firewall={}))
    other = router_rules_pb2.RouterRule(spec=router_rules_pb2.RouterRuleSpec(source_nat={}))
    assert set(changed_paths(rule, one, other)) == {"spec.firewall", "spec.source_nat"}
    none, empty = instances_pb2.Instance(), instances_pb2.Instance()
    empty.spec.entrypoint.SetInParent()
    assert list(changed_paths(BY_KIND["Instance"], none, empty)) == ["spec.entrypoint"]


def test_prune_takes_what_no_document_names_and_nobody_owns_in_the_opposite_order() -> None:
    instance, volume = BY_KIND["Instance"], BY_KIND["Volume"]
    owned = instances_pb2.Instance(name=f"{P}/instances/web-0")
    owned.status.owner = f"{P}/groups/web"
    doomed = [
        (volume, volumes_pb2.Volume(name=f"{P}/volumes/data")),
        (BY_KIND["Network"], CHAIN[0].message),
        (instance, owned),
        (instance, instances_pb2.Instance(name=f"{P}/instances/old", etag="e")),
    ]
    made = plan(CHAIN, {}, doomed)
    assert [(one.name, one.etag) for one in made.deletes] == [(f"{P}/instances/old", "e"), (f"{P}/volumes/data", "")]
    assert {noun.rank for noun in NOUNS} == set(range(1, 7))
