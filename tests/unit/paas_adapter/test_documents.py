"""Documents of each kind: what is lenient, what is refused, what is told."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paas_adapter.documents.application import Application
from paas_adapter.documents.application_policy import ApplicationPolicy
from paas_adapter.documents.autoscaling_policy import AutoscalingPolicy
from paas_adapter.documents.bundle import BundleReader, read_bundle
from paas_adapter.documents.cartridge import Cartridge
from paas_adapter.documents.cartridge_group import CartridgeGroup
from paas_adapter.documents.deployment_policy import DeploymentPolicy
from paas_adapter.documents.domain_mapping import DomainMappings
from paas_adapter.documents.fields import keys_of, spellings
from paas_adapter.documents.git_notification import GitNotification
from paas_adapter.documents.kinds import BY_CLASS, KINDS
from paas_adapter.documents.kubernetes_cluster import KubernetesCluster
from paas_adapter.documents.near import distance, near_miss
from paas_adapter.documents.references import check_bundle
from paas_adapter.documents.sign_up import SignUp
from paas_adapter.documents.tenant import Tenant
from paas_adapter.documents.user import User
from tests.unit.paas_adapter.documents import APPLICATION, CARTRIDGE, SAMPLES, files, load, member, told
from tests.unit.paas_adapter.test_reading import ANY_JSON


def one(document: dict[str, Any]) -> tuple[Any, list[tuple[str, str]], list[tuple[str, str]]]:
    """The document, and path and reason of its problems and notices."""
    reader = BundleReader()
    reader.read(json.dumps(document).encode(), "a.json")
    found = reader.findings
    documents = reader.documents
    return (
        documents[0] if documents else None,
        [(problem.place.json_path, problem.reason) for problem in found.problems],
        [(notice.place.json_path, notice.reason) for notice in found.notices],
    )


def test_a_cartridge() -> None:
    document, problems, notices = one(
        {
            **CARTRIDGE,
            "multiTenant": "TRUE",
            "version": 7.25,
            "portMapping": {
                "name": " ",
                "protocol": "HTTP",
                "port": 8080.0,
                "proxyPort": "80",
                "kubernetesPortType": "NodePort",
            },
            "properties": [{"name": "payload_parameter.A", "value": 1}],
            "iaasProvider": {
                "type": "ec2",
                "imageId": "r/ami",
                "property": {"name": "keyPair", "value": "k"},
                "credential": "s3",
            },
        }
    )
    assert problems == []
    assert isinstance(document, Cartridge)
    assert (document.multi_tenant, document.version) == (True, "7.25")
    (mapping,) = document.port_mappings
    assert (mapping.protocol, mapping.port, mapping.proxy_port, mapping.label) == ("http", 8080, 80, "http-8080")
    assert document.properties[0].value == "1"
    assert document.providers[0].at.json_path == "$.iaasProvider"
    assert notices == [
        ("$.portMapping.kubernetesPortType", "NOT_USED"),
        ("$.iaasProvider.credential", "NOT_USED"),
        ("$.iaasProvider.property", "NOT_USED"),
    ]
    assert "s3" not in repr(document)


def test_a_cartridge_with_all_that_can_be_wrong() -> None:
    _, problems, _ = one(
        {
            "type": "a b",
            "Category": "x",
            "portMapping": [{"protocol": "udp", "port": "70000"}, 5, None, {"protocol": "tcp", "port": "8o"}],
            "deployment": {"basedir": "/x"},
            "iaasProvider": [],
            "metadataKeys": ["a b"],
            "multiTenant": "maybe",
            "persistence": {"isRequired": "true", "volumes": [{"mappingPath": "x/../y", "size": "0"}]},
            "host": ["x"],
        }
    )
    assert problems == [
        ("$.type", "BAD_VALUE"),
        ("$", "MISSING"),
        ("$.host", "WRONG_TYPE"),
        ("$.multiTenant", "BAD_VALUE"),
        ("$.portMapping[0].protocol", "BAD_VALUE"),
        ("$.portMapping[0].port", "OUT_OF_RANGE"),
        ("$.portMapping[1]", "WRONG_TYPE"),
        ("$.portMapping[2]", "WRONG_TYPE"),
        ("$.portMapping[3].port", "BAD_VALUE"),
        ("$.deployment.basedir", "MISSPELT_KEY"),
        ("$.metadataKeys[0]", "BAD_VALUE"),
        ("$.iaasProvider", "MISSING"),
        ("$.persistence.volumes[0].size", "OUT_OF_RANGE"),
        ("$.persistence.volumes[0].mappingPath", "BAD_VALUE"),
        ("$.Category", "MISSPELT_KEY"),
    ]


def test_unknown_keys_are_told_and_slips_refused() -> None:
    _, problems, notices = one({**CARTRIDGE, "maxInstanceLimit": 3, "descripton": "x"})
    assert problems == [("$.descripton", "MISSPELT_KEY")]
    assert notices == [("$.maxInstanceLimit", "UNKNOWN_KEY")]
    _, problems, notices = one({**CARTRIDGE, "description": "x", "descripton": "x"})
    assert (problems, notices) == ([], [("$.descripton", "UNKNOWN_KEY")])


def test_a_list_in_singular_and_plural_at_once_is_refused() -> None:
    _, problems, _ = one({**CARTRIDGE, "portMappings": []})
    assert problems == [("$.portMappings", "DUPLICATE_KEY")]


def test_volumes_that_are_not_required_are_told() -> None:
    _, problems, notices = one({**CARTRIDGE, "persistence": {"volume": {"mappingPath": "/d", "device": "/dev/sdb"}}})
    assert problems == []
    assert notices == [("$.persistence.volume.device", "NOT_USED"), ("$.persistence", "NOT_USED")]


def test_two_references_in_one_text_and_bad_ones() -> None:
    document, problems, _ = one(
        {
            "name": "g",
            "cartridges": ["a"],
            "dependencies": {"startupOrders": [{"aliases": ["group.x , cartridge.y", "y", ""]}]},
        }
    )
    assert isinstance(document, CartridgeGroup)
    assert document.dependencies is not None
    order = document.dependencies.startup_orders[0]
    assert [str(reference) for reference in order.references] == ["group.x", "cartridge.y"]
    assert problems == [
        ("$.dependencies.startupOrders[0].aliases[1]", "BAD_REFERENCE"),
        ("$.dependencies.startupOrders[0].aliases[2]", "BAD_REFERENCE"),
    ]


def test_an_application_whose_numbers_do_not_fit() -> None:
    cartridge = {**member("web", "My_Web"), "cartridgeMin": "3", "cartridgeMax": "2"}
    group = {"name": "g", "alias": "g", "groupMinInstances": 2, "groupMaxInstances": 1}
    _, problems, _ = one({"applicationId": "x", "components": {"cartridges": [cartridge], "groups": [group]}})
    assert problems == [
        ("$", "MISSING"),
        ("$.components.cartridges[0].subscribableInfo.alias", "BAD_VALUE"),
        ("$.components.cartridges[0].cartridgeMax", "OUT_OF_RANGE"),
        ("$.components.groups[0].groupMaxInstances", "OUT_OF_RANGE"),
        ("$.components.groups[0]", "MISSING"),
    ]


@pytest.mark.parametrize(
    ("url", "fetched"),
    [
        ("https://example.org/a.git", True),
        ("https://user@example.org:8443/a.git", True),
        ("ssh://git@example.org/a.git", True),
        ("git@example.org:a/b.git", True),
        ("http://example.org/a.git", False),
        ("", False),
        ("ext::sh -c touch% /tmp/x", None),
        ("file:///etc", None),
        ("/etc", None),
        ("../x", None),
        ("https://user:secret@example.org/a.git", None),
        ("https:///a", None),
        ("https://-oProxyCommand=x/a", None),
        ("https://a b/", None),
        ("https://[::1/a", None),
        ("-oProxyCommand=x@example.org:a", None),
        ("fd::17/x", None),
    ],
)
def test_urls_of_repositories(url: str, fetched: bool | None) -> None:
    repository = {"alias": "a", "repoUrl": url, "repoPassword": "s3cret"}
    document, problems, _ = one({"artifactRepositories": [repository]})
    assert isinstance(document, SignUp)
    assert "s3cret" not in repr(document)
    assert problems == ([("$.artifactRepositories[0].repoUrl", "BAD_VALUE")] if fetched is None else [])
    assert document.artifact_repositories[0].is_fetched == bool(fetched)


@pytest.mark.parametrize("value", ["-x", "a..b", "a b", "--upload-pack=x"])
def test_refs_that_git_could_take_for_something_else(value: str) -> None:
    _, problems, _ = one({"artifactRepositories": [{"alias": "a", "repoRef": value}]})
    assert problems == [("$.artifactRepositories[0].repoRef", "BAD_VALUE")]


def test_policies_and_partitions() -> None:
    policy, problems, notices = one({"id": "a", "loadThresholds": {"requestsInFlight": {"threshold": "20.5"}}})
    assert isinstance(policy, AutoscalingPolicy)
    assert policy.load_thresholds is not None
    assert policy.load_thresholds.requests_in_flight is not None
    assert policy.load_thresholds.requests_in_flight.threshold == 20.5
    assert (problems, notices) == ([], [])
    _, problems, notices = one(
        {"id": "a", "loadThresholds": {"memoryConsumption": {"threshold": 101}, "loadAverage": {}}}
    )
    assert problems == [
        ("$.loadThresholds.memoryConsumption.threshold", "OUT_OF_RANGE"),
        ("$.loadThresholds.loadAverage", "MISSING"),
    ]
    assert notices == [("$.loadThresholds", "NO_THRESHOLD")]
    legacy, problems, _ = one({"id": "d", "networkPartition": [{"id": "n", "partitions": {"id": "p", "max": "5"}}]})
    assert isinstance(legacy, DeploymentPolicy)
    assert problems == []
    share = legacy.network_partitions[0]
    assert (share.algorithm, share.partitions[0].max) == ("one-after-another", 5)
    _, problems, _ = one(
        {"id": "d", "networkPartitions": [{"id": "n", "partitionAlgo": "roundrobin", "partitions": []}]}
    )
    assert problems == [
        ("$.networkPartitions[0].partitionAlgo", "BAD_VALUE"),
        ("$.networkPartitions[0].partitions", "MISSING"),
    ]


def test_groups_of_network_partitions() -> None:
    named = {"id": "a", "networkPartitions": ["x", "y", "z", "w"]}
    policy, problems, notices = one(
        {**named, "algorithm": "all-at-once", "properties": [{"name": "networkPartitionGroups", "value": "x|y, z|q,z"}]}
    )
    assert isinstance(policy, ApplicationPolicy)
    assert policy.waves == (("x", "y"), ("z", "q"), ("z",))
    path = "$.properties[0].value"
    assert problems == [(path, "DUPLICATE"), (path, "UNKNOWN_REFERENCE")]
    assert notices == [("$.properties[0]", "NOT_USED")]
    policy, problems, notices = one({**named, "properties": [{"name": "network-partition-groups", "value": "x|y"}]})
    assert policy.waves == (("x",), ("y",), ("z",), ("w",))
    assert (problems, notices) == ([], [("$.properties[0]", "NOT_USED")])
    assert one({**named, "algorithm": "all-at-once"})[0].waves == (("x", "y", "z", "w"),)


def test_the_other_kinds() -> None:
    tenant, problems, _ = one({"tenantDomain": "acme.org", "admin": "anna", "adminPassword": "pw", "active": "false"})
    assert isinstance(tenant, Tenant)
    assert (tenant.active, problems) == (False, [])
    user, problems, _ = one({"userName": "bob", "credential": "pw", "role": "admin"})
    assert isinstance(user, User)
    assert (user.name, problems) == ("bob", [])
    assert "pw" not in repr((tenant, user))
    mapping = {"cartridgeAlias": "a", "domainName": "abc.com", "contextPath": "abc"}
    mappings, problems, _ = one({"domainMappings": mapping})
    assert isinstance(mappings, DomainMappings)
    assert problems == [("$.domainMappings.contextPath", "BAD_VALUE")]
    notified, problems, notices = one(
        {"repository": {"url": "https://x.org/a", "watchers": 3}, "commits": [1], "before": "x"}
    )
    assert isinstance(notified, GitNotification)
    assert (problems, notices) == ([], [])
    cluster, problems, notices = one({"clusterId": "k", "kubernetesMaster": {"hostId": "m"}})
    assert isinstance(cluster, KubernetesCluster)
    assert (problems, notices) == ([], [("$", "NOT_USED")])


def test_kinds_are_told_apart_and_beans_unwrapped() -> None:
    for name, document in files().items():
        read, problems, _ = one(document)
        assert problems == [], name
        assert BY_CLASS[type(read)].told_by(document), name
    read, problems, _ = one({"cartridgeDefinitionBean": CARTRIDGE})
    assert isinstance(read, Cartridge)
    assert (problems, read.at.json_path) == ([], "$.cartridgeDefinitionBean")
    assert one({"x": 1})[1] == [("$", "UNKNOWN_KIND")]
    assert one({"multiTenant": 1, "displayName": "x"})[1][0] == ("$", "MISSING")
    reader = BundleReader()
    reader.read(json.dumps([CARTRIDGE, 5, APPLICATION]).encode(), "a.json")
    assert [type(one) for one in reader.documents] == [Cartridge, Application]
    assert [one.place.json_path for one in reader.findings.problems] == ["$[1]"]


def test_a_bundle_in_yaml() -> None:
    text = "applicationId: a\nalias: a\ncomponents:\n  cartridges:\n  - type: web\n    cartridgeMax: x\n"
    _, findings = read_bundle([("app.yaml", text.encode())])
    assert [str(problem) for problem in findings.problems] == [
        "app.yaml:6:19 $.components.cartridges[0].cartridgeMax: not a whole number (BAD_VALUE)",
        "app.yaml:5:5 $.components.cartridges[0]: subscribableInfo is missing (MISSING)",
    ]


def test_near_words() -> None:
    assert near_miss("basedir", ["baseDir", "dir"]) == "baseDir"
    assert near_miss("prot", ["port"]) == "port"
    assert near_miss("terminationBehavoir", ["terminationBehaviour"]) == "terminationBehaviour"
    assert near_miss("id", ["if"]) is None
    assert near_miss("x" * 1000, ["y"]) is None
    assert [distance("abcd", other, 2) for other in ("abcd", "abdc", "abc", "xyz", "ab", "a")] == [0, 1, 1, 3, 2, 3]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.word)
def test_no_key_is_another_keys_spelling_or_slip(kind: Any) -> None:
    keys = keys_of(kind.cls).values()
    said = [name for key in keys for name in spellings(key)]
    assert len(said) == len(set(said))
    assert not kind.id or kind.id in keys_of(kind.cls)


def _like(kind: Any) -> st.SearchStrategy[Any]:
    """Objects with the keys of a kind, and anything in them."""
    names = [name for key in keys_of(kind.cls).values() for name in spellings(key)]
    inside = [
        *("name", "value", "alias", "type", "id", "port", "protocol", "threshold", "aliases", "subscribableInfo"),
        *("partitions", "cartridges", "groups", "dependencies", "startupOrders", "repoUrl", "mappingPath", "url"),
    ]
    inner = st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text()
        | st.sampled_from(["a", "cartridge.a,group.a", "http", "80"]),
        lambda deeper: st.lists(deeper, max_size=3) | st.dictionaries(st.sampled_from(inside), deeper, max_size=4),
        max_leaves=12,
    )
    return st.dictionaries(st.sampled_from(names) | st.text(max_size=12), inner, max_size=8)


@given(ANY_JSON)
def test_any_value_gives_findings_and_no_exception(value: object) -> None:
    reader = BundleReader()
    content = json.dumps(value).encode()
    reader.read(content, "a.json")
    for kind in KINDS:
        reader.read(content, "a.json", kind)
    check_bundle(reader.bundle())


@given(st.data())
def test_any_value_under_known_keys_gives_findings_and_no_exception(data: Any) -> None:
    reader = BundleReader()
    for kind in data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3)):
        value = data.draw(_like(kind))
        reader.read(json.dumps(value).encode(), "a.json", kind)
        for problem in reader.findings.problems:
            assert problem.place.file
            assert problem.message
            assert str(problem).encode()
    bundle = reader.bundle()
    check_bundle(bundle, bundle)


def test_real_documents_are_read() -> None:
    """All of a folder but those that are not JSON, which are refused with their line."""
    folder = os.environ.get(SAMPLES)
    if not folder:
        pytest.skip(f"{SAMPLES} names no folder of documents")
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix in (".json", ".yaml", ".yml"))
    assert paths
    _, findings = read_bundle((str(path), path.read_bytes()) for path in paths)
    assert [str(problem) for problem in findings.problems if problem.reason not in ("NOT_JSON", "NOT_YAML")] == []
    for problem in findings.problems:
        assert problem.place.line > 0
        if problem.place.file.endswith(".json"):
            with pytest.raises(json.JSONDecodeError):
                json.loads(Path(problem.place.file).read_text())


def test_the_bundle_of_the_other_tests_is_right() -> None:
    _, findings = load(files())
    assert told(findings) == []
    assert findings.notices == []
