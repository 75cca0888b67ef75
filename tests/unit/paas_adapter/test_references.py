"""What documents say of each other."""

from typing import Any

import pytest

from paas_adapter.documents.application import Application
from paas_adapter.documents.bundle import Bundle
from paas_adapter.documents.references import check_bundle
from tests.unit.paas_adapter.documents import CARTRIDGE, files, load, member, told

COMPONENTS = "$.components"


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        (
            "web.json",
            [
                ("group.json", "$.cartridges[1]"),
                ("app.json", f"{COMPONENTS}.cartridges[0].type"),
                ("app.json", f"{COMPONENTS}.groups[0].cartridges[1].type"),
            ],
        ),
        ("group.json", [("app.json", f"{COMPONENTS}.groups[0].name")]),
        (
            "as.json",
            [
                ("app.json", f"{COMPONENTS}.cartridges[0].subscribableInfo.autoscalingPolicy"),
                ("app.json", f"{COMPONENTS}.groups[0].cartridges[0].subscribableInfo.autoscalingPolicy"),
                ("app.json", f"{COMPONENTS}.groups[0].cartridges[1].subscribableInfo.autoscalingPolicy"),
            ],
        ),
        (
            "dp.json",
            [
                ("app.json", f"{COMPONENTS}.cartridges[0].subscribableInfo.deploymentPolicy"),
                ("app.json", f"{COMPONENTS}.groups[0].deploymentPolicy"),
            ],
        ),
        ("np.json", [("dp.json", "$.networkPartitions[0].id"), ("ap.json", "$.networkPartitions[0]")]),
    ],
)
def test_a_name_that_leads_nowhere(gone: str, expected: list[tuple[str, str]]) -> None:
    bundle = files()
    del bundle[gone]
    _, findings = load(bundle)
    assert told(findings) == [(file, path, "UNKNOWN_REFERENCE") for file, path in expected]


def test_what_is_registered_already_need_not_be_in_the_bundle() -> None:
    everything, _ = load(files())
    application = Bundle(everything.all(Application))
    assert check_bundle(application).problems
    assert check_bundle(application, everything).problems == []


def test_a_likely_name_is_told_but_not_one_with_another_number() -> None:
    bundle = files()
    bundle["dp.json"]["networkPartitions"][0]["id"] = "np-2"
    bundle["app.json"]["components"]["cartridges"][0]["type"] = "wbe"
    bundle["wbe.json"] = {**CARTRIDGE, "type": "webb"}
    _, findings = load(bundle)
    assert [problem.message for problem in findings.problems] == [
        "there is no network partition np-2",
        "there is no cartridge wbe",
    ]


def test_partitions_of_a_deployment_policy() -> None:
    bundle = files()
    bundle["dp.json"]["networkPartitions"][0]["partitions"][0]["id"] = "elsewhere"
    assert told(load(bundle)[1]) == [("dp.json", "$.networkPartitions[0].partitions[0].id", "UNKNOWN_REFERENCE")]


def test_two_documents_of_the_same_name() -> None:
    bundle = files()
    bundle["more.json"] = CARTRIDGE
    assert told(load(bundle)[1]) == [("more.json", "$", "DUPLICATE")]


def test_deployment_policies_stand_on_one_level() -> None:
    bundle = files()
    group = bundle["app.json"]["components"]["groups"][0]
    group["cartridges"][0]["subscribableInfo"]["deploymentPolicy"] = "dp-1"
    del bundle["app.json"]["components"]["cartridges"][0]["subscribableInfo"]["deploymentPolicy"]
    assert told(load(bundle)[1]) == [
        ("app.json", f"{COMPONENTS}.cartridges[0].subscribableInfo", "NO_DEPLOYMENT_POLICY"),
        (
            "app.json",
            f"{COMPONENTS}.groups[0].cartridges[0].subscribableInfo.deploymentPolicy",
            "DEPLOYMENT_POLICY_TWICE",
        ),
    ]


def test_aliases_are_unique_and_depend_on_others() -> None:
    bundle = files()
    info = bundle["app.json"]["components"]["cartridges"][0]["subscribableInfo"]
    info["alias"] = "my-web"
    info["dependencyAliases"] = ["my-web", "nobody", "my-db"]
    bundle["app.json"]["components"]["dependencies"] = None
    path = f"{COMPONENTS}.cartridges[0].subscribableInfo"
    assert told(load(bundle)[1]) == [
        ("app.json", f"{COMPONENTS}.groups[0].cartridges[1].subscribableInfo.alias", "DUPLICATE"),
        ("app.json", f"{path}.dependencyAliases[0]", "CIRCLE"),
        ("app.json", f"{path}.dependencyAliases[1]", "UNKNOWN_REFERENCE"),
    ]


def order(*lists: list[str]) -> dict[str, Any]:
    return {"startupOrders": [{"aliases": names} for names in lists]}


def test_a_circle_of_several_orders() -> None:
    bundle = files()
    components = bundle["app.json"]["components"]
    components["cartridges"].append(member("web", "back", deploymentPolicy="dp-1"))
    components["dependencies"] = order(
        ["group.my-web-db", "cartridge.front"],
        ["cartridge.front", "cartridge.back"],
        ["cartridge.back", "group.my-web-db"],
    )
    _, findings = load(bundle)
    assert [problem.reason for problem in findings.problems] == ["CIRCLE"]
    assert findings.problems[0].message.endswith("a circle: my-web-db -> front -> back -> my-web-db")
    components["dependencies"] = order(
        ["group.my-web-db", "cartridge.back"],
        ["cartridge.front", "cartridge.back"],
        ["group.my-web-db", "cartridge.front"],
    )
    assert told(load(bundle)[1]) == []
    components["dependencies"] = order(["cartridge.front", "cartridge.front"])
    assert [problem.reason for problem in load(bundle)[1].problems] == ["CIRCLE"]


def test_orders_name_children_what_they_are_made_of_or_what_is_inside_them() -> None:
    bundle = files()
    bundle["group.json"]["dependencies"]["startupOrders"] = [{"aliases": ["cartridge.db", "cartridge.web"]}]
    bundle["app.json"]["components"]["dependencies"] = order(["cartridge.my-db", "cartridge.front"])
    assert told(load(bundle)[1]) == []
    bundle["app.json"]["components"]["dependencies"] = order(["cartridge.nobody", "group.front"])
    path = f"{COMPONENTS}.dependencies.startupOrders[0].aliases"
    assert told(load(bundle)[1]) == [
        ("app.json", f"{path}[0]", "UNKNOWN_REFERENCE"),
        ("app.json", f"{path}[1]", "UNKNOWN_REFERENCE"),
    ]


def test_orders_of_a_cartridge_group_are_checked_where_it_is_used() -> None:
    bundle = files()
    bundle["group.json"]["dependencies"]["startupOrders"] = [{"aliases": ["cartridge.db", "cartridge.cache"]}]
    assert told(load(bundle)[1]) == [("group.json", "$.dependencies.startupOrders[0].aliases[1]", "UNKNOWN_REFERENCE")]
    del bundle["app.json"]
    assert told(load(bundle)[1]) == []


def test_a_group_that_differs_from_its_cartridge_group() -> None:
    bundle = files()
    bundle["group.json"]["cartridges"] = ["db", "other"]
    bundle["other.json"] = {**CARTRIDGE, "type": "other"}
    _, findings = load(bundle)
    assert [(notice.place.json_path, notice.reason) for notice in findings.notices] == [
        (f"{COMPONENTS}.groups[0].cartridges[1].type", "DIFFERS_FROM_GROUP"),
        (f"{COMPONENTS}.groups[0]", "DIFFERS_FROM_GROUP"),
    ]


def test_sign_ups_and_domain_mappings_find_their_application() -> None:
    bundle = files()
    mapping = {"cartridgeAlias": "nobody", "domainName": "abc.com", "contextPath": "/"}
    bundle["map.json"] = {"domainMappings": [mapping]}
    bundle["sign.json"] = {"artifactRepositories": [{"alias": "front", "repoUrl": "https://x.org/a"}]}
    _, findings = load(bundle)
    assert told(findings) == []
    assert [(notice.place.file, notice.reason) for notice in findings.notices] == [
        ("map.json", "NOT_USED"),
        ("sign.json", "NOT_USED"),
    ]
    bundle["app.json"]["multiTenant"] = True
    bundle["map.json"]["applicationId"] = "shop"
    bundle["sign.json"]["applicationId"] = "shopp"
    assert told(load(bundle)[1]) == [
        ("map.json", "$.domainMappings[0].cartridgeAlias", "UNKNOWN_REFERENCE"),
        ("sign.json", "$.applicationId", "UNKNOWN_REFERENCE"),
    ]
    bundle["app2.json"] = {**bundle["app.json"], "applicationId": "shop2"}
    del bundle["map.json"]["applicationId"]
    assert [notice.reason for notice in load(bundle)[1].notices] == ["NO_APPLICATION"]
