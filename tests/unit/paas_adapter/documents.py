"""Small documents of each kind, for tests to change."""

import copy
import json
from typing import Any

from paas_adapter.documents.bundle import Bundle, read_bundle
from paas_adapter.documents.places import Findings
from paas_adapter.documents.references import check_bundle

#: Names a folder of real documents, searched through for *.json and *.yaml.
SAMPLES = "MOORAGE_STRATOS_SAMPLES"

CARTRIDGE: dict[str, Any] = {
    "type": "web",
    "provider": "acme",
    "category": "framework",
    "host": "web.example.org",
    "multiTenant": "false",
    "portMapping": [{"protocol": "http", "port": "8080", "proxyPort": "80"}],
    "deployment": {"baseDir": "/srv/www"},
    "iaasProvider": [{"type": "docker", "imageId": "acme/web:1.2"}],
}
GROUP: dict[str, Any] = {
    "name": "web-db",
    "cartridges": ["db", "web"],
    "dependencies": {
        "startupOrders": [{"aliases": ["cartridge.my-db", "cartridge.my-web"]}],
        "terminationBehaviour": "terminate-dependents",
    },
}
AUTOSCALING: dict[str, Any] = {"id": "as-1", "loadThresholds": {"loadAverage": {"threshold": "70"}}}
NETWORK_PARTITION: dict[str, Any] = {
    "id": "np-1",
    "provider": "mock",
    "partitions": [{"id": "p-1", "property": [{"name": "zone", "value": "east"}]}, {"id": "p-2"}],
}
DEPLOYMENT: dict[str, Any] = {
    "id": "dp-1",
    "networkPartitions": [
        {"id": "np-1", "partitionAlgo": "round-robin", "partitions": [{"id": "p-1", "partitionMax": 5}]}
    ],
}
APPLICATION_POLICY: dict[str, Any] = {"id": "ap-1", "algorithm": "one-after-another", "networkPartitions": ["np-1"]}


def member(type_: str, alias: str, **info: Any) -> dict[str, Any]:
    """A cartridge in an application."""
    about = {"alias": alias, "autoscalingPolicy": "as-1", **info}
    return {"type": type_, "cartridgeMin": 1, "cartridgeMax": 3, "subscribableInfo": about}


APPLICATION: dict[str, Any] = {
    "applicationId": "shop",
    "alias": "shop",
    "components": {
        "groups": [
            {
                "name": "web-db",
                "alias": "my-web-db",
                "groupMinInstances": 1,
                "groupMaxInstances": 2,
                "deploymentPolicy": "dp-1",
                "cartridges": [member("db", "my-db"), member("web", "my-web")],
            }
        ],
        "cartridges": [member("web", "front", deploymentPolicy="dp-1")],
        "dependencies": {"startupOrders": [{"aliases": ["group.my-web-db, cartridge.front"]}]},
    },
}


def files() -> dict[str, Any]:
    """A bundle that is right: name to document, to be changed at will."""
    database = {**CARTRIDGE, "type": "db", "portMapping": [{"protocol": "tcp", "port": 5432}], "metadataKeys": ["url"]}
    bundle = {
        "web.json": CARTRIDGE,
        "db.json": database,
        "group.json": GROUP,
        "as.json": AUTOSCALING,
        "np.json": NETWORK_PARTITION,
        "dp.json": DEPLOYMENT,
        "ap.json": APPLICATION_POLICY,
        "app.json": APPLICATION,
    }
    return copy.deepcopy(bundle)


def load(documents: dict[str, Any]) -> tuple[Bundle, Findings]:
    """Read and checked."""
    bundle, findings = read_bundle((name, json.dumps(document).encode()) for name, document in documents.items())
    findings.add(check_bundle(bundle))
    return bundle, findings


def told(findings: Findings) -> list[tuple[str, str, str]]:
    """File, path and reason of all problems."""
    return [(one.place.file, one.place.json_path, one.reason) for one in findings.problems]
