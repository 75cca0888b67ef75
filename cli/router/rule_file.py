"""Files of rules: a YAML list, read into requests. Pure."""

from typing import Any

import yaml
from google.protobuf import json_format

from moorage.errors import InvalidSpec
from moorage.v1 import router_rules_pb2


def read_rules(text: str) -> list[router_rules_pb2.CreateRouterRuleRequest]:
    """Requests without parents, in the order of the file.

    Raises:
        InvalidSpec: no YAML list of rules, a rule without a name, a name that comes twice, or a field that no rule has.
    """
    try:
        items = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise InvalidSpec.of("file", f"is no YAML: {exc}") from exc
    if not isinstance(items, list):
        raise InvalidSpec.of("file", "must be a list of rules")
    found = [_rule(index, item) for index, item in enumerate(items)]
    names = [request.rule_id for request in found]
    twice = next((name for name in names if names.count(name) > 1), "")
    if twice:
        raise InvalidSpec.of("file", f"names {twice} twice")
    return found


def _rule(index: int, item: Any) -> router_rules_pb2.CreateRouterRuleRequest:
    where = f"file[{index}]"
    if not isinstance(item, dict) or not isinstance(item.get("name"), str) or not item["name"]:
        raise InvalidSpec.of(where, "must be a mapping with a name")
    rest = {key: value for key, value in item.items() if key not in ("name", "labels")}
    request = router_rules_pb2.CreateRouterRuleRequest(rule_id=item["name"])
    try:
        json_format.ParseDict({"spec": rest, "labels": item.get("labels") or {}}, request.rule)
    except json_format.ParseError as exc:
        raise InvalidSpec.of(where, f"{item['name']}: {exc}") from exc
    return request
