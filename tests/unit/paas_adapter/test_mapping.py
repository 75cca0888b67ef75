"""From documents to what runs: containers, places, metadata, order."""

import os
from pathlib import Path
from typing import Any

import pytest

from paas_adapter.documents import application as documents
from paas_adapter.documents.bundle import Bundle, read_bundle
from paas_adapter.documents.references import check_bundle
from paas_adapter.mapping.application import Catalogue, map_application
from paas_adapter.mapping.groups import Wanted, plan_groups
from paas_adapter.mapping.images import is_reference
from paas_adapter.mapping.metadata import before
from paas_adapter.mapping.model import (
    Application,
    Cluster,
    ClusterGroup,
    Edge,
    Filling,
    Pool,
    Protocol,
    Termination,
    Variable,
)
from paas_adapter.mapping.names import host_label, slug, unique_name
from paas_adapter.mapping.settings import Settings, Site
from tests.unit.paas_adapter.documents import SAMPLES, files, load

EAST = Settings(zones=frozenset({"east"}))


def mapped(
    bundle: dict[str, Any], settings: Settings = EAST
) -> tuple[Application | None, list[tuple[str, str]], list[str]]:
    """The application, path and reason of problems, reasons of notices."""
    read, findings = load(bundle)
    assert findings.problems == []
    (given,) = read.all(documents.Application)
    application, found = map_application(given, Catalogue.of(read), settings)
    problems = [(one.place.json_path, one.reason) for one in found.problems]
    return application, problems, [one.reason for one in found.notices]


def cluster(bundle: dict[str, Any], alias: str = "front", settings: Settings = EAST) -> Cluster:
    application, problems, _ = mapped(bundle, settings)
    assert problems == []
    assert application is not None
    return next(one for one in application.level.clusters() if one.alias == alias)


def env(one: Cluster) -> dict[str, str]:
    return {variable.name: variable.value for variable in one.container.env}


def test_an_application_as_a_whole() -> None:
    application, problems, notices = mapped(files())
    assert (problems, notices) == ([], [])
    assert application is not None
    group, front = application.level.children
    assert isinstance(group, ClusterGroup)
    assert isinstance(front, Cluster)
    assert (group.alias, group.made_of, group.least, group.most) == ("my-web-db", "web-db", 1, 2)
    assert application.level.order == (Edge("my-web-db", "front"),)
    assert group.level.order == (Edge("my-db", "my-web"),)
    assert group.level.termination is Termination.DEPENDENTS
    assert application.level.termination is Termination.NONE
    assert (front.least, front.most, front.host_name) == (1, 3, "shop.front.web.example.org")
    assert front.thresholds is not None
    assert (front.thresholds.load_percent, front.thresholds.memory_percent) == (70, None)
    container = front.container
    assert (container.template.image.reference, container.template.image.at.json_path) == (
        "acme/web:1.2",
        "$.iaasProvider[0].imageId",
    )
    assert [(port.name, port.protocol, port.number, port.listen) for port in container.ports] == [
        ("http-8080", Protocol.HTTP, 8080, 80)
    ]
    assert container.readiness is not None
    assert (container.readiness.port, container.readiness.at.file) == (8080, "web.json")
    assert container.artifacts is None
    (region,) = front.regions
    assert (region.id, region.filling) == ("np-1", Filling.EVENLY)
    assert region.pools == (Pool("p-1", zone="east", cap=5),)


def test_everything_says_where_it_comes_from() -> None:
    bundle = files()
    bundle["web.json"]["property"] = [{"name": "payload_parameter.A", "value": "1"}]
    one = cluster(bundle)
    assert one.at.json_path == "$.components.cartridges[0]"
    assert [str(variable.at) for variable in one.container.env if variable.name == "A"] == [
        "web.json:1:304 $.property[0]"
    ]
    assert one.regions[0].pools[0].at.json_path == "$.networkPartitions[0].partitions[0]"


def test_environment_has_layers() -> None:
    bundle = files()
    given = [{"name": f"payload_parameter.{name}", "value": "cartridge"} for name in ("A", "B", "C")]
    bundle["web.json"]["property"] = given
    bundle["app.json"]["property"] = [{"name": "payload_parameter.B", "value": "app, with = and ,"}]
    info = bundle["app.json"]["components"]["cartridges"][0]["subscribableInfo"]
    info["property"] = [{"name": "payload_parameter.C", "value": "cluster"}, {"name": "other", "value": "x"}]
    bundle["np.json"]["properties"] = [{"name": "payload_parameter.A", "value": "there"}]
    one = cluster(bundle)
    told = env(one)
    assert (told["A"], told["B"], told["C"]) == ("cartridge", "app, with = and ,", "cluster")
    assert told["CLUSTER_ID"] == "shop.front.web.domain"
    assert (told["PORTS"], told["MULTITENANT"], told["HOST_NAME"]) == ("8080", "false", "shop.front.web.example.org")
    assert told["PORT_MAPPINGS"] == "NAME:http-8080|PROTOCOL:http|PORT:8080|PROXY_PORT:80"
    assert "GROUP_NAME" not in told
    assert env(cluster(bundle, "my-web"))["GROUP_NAME"] == "my-web-db"
    assert one.regions[0].env == (Variable("A", "there"),)
    assert sorted(told) == list(told)
    assert "app, with" not in repr(one.container.env)
    assert mapped(bundle)[1:] == ([], ["NOT_USED"])
    bundle["web.json"]["property"] = [{"name": "payload_parameter.A B", "value": "x"}]
    assert mapped(bundle)[1] == [("$.property[0].name", "BAD_VALUE")]


def provided(*providers: tuple[str, str]) -> dict[str, Any]:
    bundle = files()
    bundle["web.json"]["iaasProvider"] = [{"type": kind, "imageId": image} for kind, image in providers]
    return bundle


def test_the_image_of_the_best_provider_or_of_the_map() -> None:
    def image(bundle: dict[str, Any], **images: str) -> str:
        return cluster(bundle, settings=Settings(images=images, zones=EAST.zones)).container.template.image.reference

    several = provided(("mock", "a/mock"), ("ec2", "r/ami-1"), ("kubernetes", "a/kube:1"))
    assert image(several) == "a/kube:1"
    assert image(provided(("kubernetes", "a/kube"), ("Docker", "a/dock"))) == "a/dock"
    assert image(provided(("kubernetes", "RegionOne/B4"), ("mock", "a/mock"))) == "a/mock"
    assert image(several, web="reg.example.org:5000/web@sha256:" + "0" * 64).startswith("reg.example.org")
    assert image(provided(("ec2", "r/ami-1")), **{"r/ami-1": "a/b"}) == "a/b"
    vm = provided(("ec2", "r/ami-1"), ("openstack", "x"))
    assert mapped(vm) == (None, [("$.iaasProvider", "NO_IMAGE")], [])
    assert mapped(vm, Settings(images={"web": "A b"}, zones=EAST.zones))[1] == [("$.type", "NO_IMAGE")]


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("web", True),
        ("stratos/php:4.1.5", True),
        ("localhost:5000/a/b", True),
        ("a__b/c-d.e", True),
        ("RegionOne/b4ca55e3-58ab", True),
        ("RegionOne/aB", False),
        ("", False),
        ("a b", False),
        ("-x", False),
        ("a:", False),
        ("a//b", False),
    ],
)
def test_references_of_images(text: str, fits: bool) -> None:
    assert is_reference(text) is fits


def test_another_image_is_another_template_with_the_same_name_for_the_same_image() -> None:
    first, second = (cluster(provided(("docker", image))).container.template for image in ("a/b:1", "a/b:2"))
    assert first.id != second.id
    assert first.id == cluster(provided(("docker", "a/b:1")), "my-web").container.template.id
    assert first.id.startswith("web-")


def test_limits_and_pull_properties() -> None:
    bundle = files()

    def properties(**given: str) -> Cluster:
        bundle["web.json"]["property"] = [{"name": name, "value": value} for name, value in given.items()]
        return cluster(bundle)

    def amounts(one: Cluster) -> tuple[int | None, int | None]:
        cpu, memory = one.container.limits.cpu_millis, one.container.limits.memory_bytes
        return (cpu.value if cpu else None), (memory.value if memory else None)

    assert amounts(properties(KUBERNETES_CONTAINER_CPU="0.5", KUBERNETES_CONTAINER_MEMORY="512")) == (
        500,
        512 * 1024**2,
    )
    assert amounts(properties(KUBERNETES_CONTAINER_CPU="250m", KUBERNETES_CONTAINER_MEMORY="1Gi")) == (250, 1024**3)
    assert amounts(properties(KUBERNETES_CONTAINER_CPU="0", KUBERNETES_CONTAINER_MEMORY="0")) == (None, None)
    assert amounts(properties(KUBERNETES_CONTAINER_MEMORY="134217728")) == (None, 134217728)
    one = properties(
        IMAGE_PULL_POLICY="Always", IMAGE_PULL_SECRETS="reg", KUBERNETES_SERVICE_SESSION_AFFINITY="ClientIP"
    )
    assert one.sticky
    assert (one.container.template.image.looked_up, one.container.template.image.credentials) == (True, "reg")
    bundle["web.json"]["property"] = [
        {"name": "KUBERNETES_CONTAINER_CPU", "value": "much"},
        {"name": "KUBERNETES_CONTAINER_MEMORY", "value": "1Mi"},
        {"name": "IMAGE_PULL_POLICY", "value": "Sometimes"},
        {"name": "KUBERNETES_CONTAINER_MEMROY", "value": "1"},
    ]
    assert mapped(bundle)[1:] == (
        [
            ("$.property[2].value", "BAD_VALUE"),
            ("$.property[0].value", "BAD_VALUE"),
            ("$.property[1].value", "OUT_OF_RANGE"),
        ],
        ["NOT_USED"],
    )


def test_the_port_that_says_whether_a_member_is_ready() -> None:
    bundle = files()
    bundle["web.json"]["portMapping"] = [
        {"protocol": "tcp", "port": 22},
        {"protocol": "https", "port": 8443, "proxyPort": 443},
        {"protocol": "http", "port": 8080},
    ]
    one = cluster(bundle).container
    assert one.readiness is not None
    assert one.readiness.port == 8443
    assert [port.listen for port in one.ports] == [None, 443, None]
    bundle["web.json"]["portMapping"] = []
    assert cluster(bundle).container.readiness is None


def test_volumes() -> None:
    bundle = files()
    volumes = [
        {"id": "data", "mappingPath": "/data", "size": "2", "removeOnTermination": "true"},
        {"id": "much-too-long", "mappingPath": "/logs"},
    ]
    bundle["web.json"]["persistence"] = {"isRequired": True, "volumes": volumes}
    first, second = cluster(bundle).container.volumes
    assert (first.name, first.target, first.size_bytes, first.goes_with_group) == ("data", "/data", 2 * 1024**3, True)
    assert (second.target, second.size_bytes, second.goes_with_group) == ("/logs", None, False)
    assert len(second.name) == 7
    volumes.reverse()
    assert set(cluster(bundle).container.volumes) == {first, second}
    info = bundle["app.json"]["components"]["cartridges"][0]["subscribableInfo"]
    info["persistence"] = {"isRequired": "true", "volumes": [{"mappingPath": "/x", "volumeId": "old"}]}
    application, problems, notices = mapped(bundle)
    assert problems == []
    assert notices == ["ONE_VOLUME"]
    assert application is not None
    assert [one.existing for one in cluster(bundle).container.volumes] == ["old"]
    assert len(cluster(bundle, "my-web").container.volumes) == 2
    info["persistence"]["volumes"] = [{"mappingPath": "/x", "volumeId": "Old_1"}]
    assert mapped(bundle)[1] == [
        ("$.components.cartridges[0].subscribableInfo.persistence.volumes[0].volumeId", "BAD_VALUE")
    ]
    info["persistence"]["volumes"] = [{"mappingPath": f"/x{number}"} for number in range(9)]
    assert [reason for _, reason in mapped(bundle)[1]] == ["OUT_OF_RANGE"]
    info["persistence"] = {"isRequired": False, "volumes": volumes}
    assert cluster(bundle).container.volumes == ()


def test_artifacts() -> None:
    bundle = files()
    info = bundle["app.json"]["components"]["cartridges"][0]["subscribableInfo"]
    repository = {
        "repoUrl": "https://example.org/a.git",
        "repoRef": "v1",
        "repoDirectory": "web",
        "repoPassword": "s3cret",
    }
    info["artifactRepository"] = repository
    mount = cluster(bundle).container.artifacts
    assert mount is not None
    assert (mount.target, mount.at.json_path) == ("/srv/www", "$.deployment.baseDir")
    assert mount.repository is not None
    assert (mount.repository.ref, mount.repository.directory, mount.repository.depth) == ("v1", "web", 1)
    assert "s3cret" not in repr(mount)
    assert env(cluster(bundle))["APPLICATION_PATH"] == "/srv/www"
    bundle["web.json"]["deployment"] = {"baseDir": "/"}
    assert mapped(bundle)[1] == [("$.deployment.baseDir", "BAD_VALUE")]
    bundle["web.json"]["deployment"] = {"baseDir": "/data/"}
    bundle["web.json"]["persistence"] = {"isRequired": True, "volumes": {"mappingPath": "/data"}}
    assert mapped(bundle)[1] == [("$.deployment.baseDir", "DUPLICATE")]
    bundle["web.json"]["deployment"] = {}
    assert mapped(bundle)[1:] == ([], ["NOT_USED"])
    bundle["web.json"]["deployment"] = {"baseDir": "/srv"}
    repository["repoUrl"] = "http://example.org/a.git"
    assert cluster(bundle).container.artifacts is None
    bundle["web.json"]["multiTenant"] = True
    mount = cluster(bundle).container.artifacts
    assert mount is not None
    assert mount.repository is None


def test_places_that_this_fleet_has_and_those_it_has_not() -> None:
    bundle = files()
    bundle["np.json"]["partitions"][0]["property"] += [
        {"name": "region", "value": "r1"},
        {"name": "disk", "value": "ssd"},
    ]
    settings = Settings(zones=frozenset({"east"}), host_labels=frozenset({"disk"}))
    assert mapped(bundle, settings)[1:] == ([], ["NO_SUCH_PLACE"])
    assert cluster(bundle, settings=settings).regions[0].pools == (Pool("p-1", "east", (("disk", "ssd"),), 5),)
    assert mapped(bundle, Settings())[2] == ["NO_SUCH_PLACE"] * 3
    sites = {("np-1", "p-1"): Site("west", {"b": "1", "a": "2"})}
    assert mapped(bundle, Settings(sites=sites))[2] == []
    found = cluster(bundle, settings=Settings(sites=sites)).regions[0].pools
    assert found == (Pool("p-1", "west", (("a", "2"), ("b", "1")), 5),)


def test_metadata_goes_down_the_order_and_to_those_that_ask() -> None:
    bundle = files()
    assert [str(key) for key in cluster(bundle, "my-web").imports] == ["my-db.url"]
    assert [str(key) for key in cluster(bundle, "front").imports] == ["my-db.url"]
    assert cluster(bundle, "my-db").imports == ()
    assert [str(key) for key in cluster(bundle, "my-db").exports] == ["my-db.url"]
    bundle["app.json"]["components"]["dependencies"] = None
    assert cluster(bundle, "front").imports == ()
    bundle["app.json"]["components"]["cartridges"][0]["subscribableInfo"]["dependencyAliases"] = ["my-db"]
    asked = cluster(bundle, "front")
    assert [str(key) for key in asked.imports] == ["my-db.url"]
    assert env(asked)["DEPENDENCY_ALIASES"] == "my-db"


def test_what_is_before_what() -> None:
    order = (Edge("a", "b"), Edge("b", "c"), Edge("x", "c"))
    assert before(order, "c") == {"a", "b", "x"}
    assert before(order, "a") == frozenset()


def test_policies_above_hold_below_and_scaled_together() -> None:
    bundle = files()
    bundle["group.json"]["dependencies"]["scalingDependents"] = [{"aliases": ["cartridge.my-db,cartridge.my-web"]}]
    application, _, _ = mapped(bundle)
    assert application is not None
    group = application.level.children[0]
    assert isinstance(group, ClusterGroup)
    assert group.level.scaled_together == (("my-db", "my-web"),)
    assert [region.id for region in cluster(bundle, "my-db").regions] == ["np-1"]


def test_what_a_shared_cartridge_has_is_told_once() -> None:
    bundle = files()
    bundle["web.json"]["property"] = [
        {"name": "other", "value": "x"},
        {"name": "KUBERNETES_CONTAINER_CPU", "value": "x"},
    ]
    assert mapped(bundle)[1:] == ([("$.property[1].value", "BAD_VALUE")], ["NOT_USED"])


def test_real_applications_are_mapped() -> None:
    """Each of a folder that is right with what else is there, with one image for all."""
    folder = os.environ.get(SAMPLES)
    if not folder:
        pytest.skip(f"{SAMPLES} names no folder of documents")
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix in (".json", ".yaml", ".yml"))
    everything, _ = read_bundle((str(path), path.read_bytes()) for path in paths)
    catalogue = Catalogue.of(everything)
    settings = Settings(images=dict.fromkeys(catalogue.cartridges, "stand-in:1"))
    for given in everything.all(documents.Application):
        assert check_bundle(Bundle((given,)), everything).problems == []
        application, findings = map_application(given, catalogue, settings)
        assert findings.problems == []
        assert application is not None
        regions = tuple(dict.fromkeys(region.id for one in application.level.clusters() for region in one.regions))
        assert plan_groups(application, Wanted(regions)) == plan_groups(application, Wanted(regions))


def test_names() -> None:
    assert (slug("My_App 1"), slug("1st"), slug("é")) == ("my-app-1", "x-1st", "x")
    assert (host_label("My_App-"), host_label("_")) == ("my-app", "x")
    one, other = unique_name("shop-web", "a", 50), unique_name("shop-web", "b", 50)
    assert one != other
    assert one.startswith("shop-web-")
    long = unique_name("x" * 43 + "-y", "a", 50)
    assert len(long) == 50
    assert "--" not in long
