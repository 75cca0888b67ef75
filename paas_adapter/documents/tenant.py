"""Tenants: who applications belong to."""

import re
from dataclasses import dataclass

from paas_adapter.documents.fields import Part, key
from paas_adapter.documents.scalars import Anything, Flag, Text

_DOMAIN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*\Z")
_ANSWERS = "only answers have it"


def domain_fault(text: str) -> str:
    """What is wrong with a domain name."""
    parts_fit = all(len(part) <= 63 for part in text.split("."))
    return "" if len(text) <= 253 and parts_fit and _DOMAIN.match(text) else "not a domain name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant(Part):
    """A project with its first user."""

    domain: str = key("tenantDomain", Text(domain_fault), required=True)
    admin: str = key("admin", Text(limit=200), required=True)
    password: str = key("adminPassword", Text(), aliases=("adminPass",), secret=True)
    first_name: str = key("firstName", Text(), aliases=("firstname",))
    last_name: str = key("lastName", Text(), aliases=("lastname",))
    email: str = key("email", Text())
    active: bool = key("active", Flag(nothing=True))
    usage_plan: str = key("usagePlan", Text(), unused="quota is set at the project")
    tenant_id: None = key("tenantId", Anything(), unused=_ANSWERS)
    created: None = key("createdDate", Anything(), unused=_ANSWERS)
    success_key: None = key("successKey", Anything(), unused=_ANSWERS)
    originated_service: None = key("originatedService", Anything(), unused=_ANSWERS)
