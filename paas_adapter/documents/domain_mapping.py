"""Domain mappings: further names under which clusters are reached."""

from dataclasses import dataclass

from paas_adapter.documents.fields import Listing, Nested, Part, key
from paas_adapter.documents.places import Findings
from paas_adapter.documents.scalars import Id, Text
from paas_adapter.documents.tenant import domain_fault


def context_fault(text: str) -> str:
    inside = ".." not in text.split("/") and not any(letter.isspace() or letter in "?#" for letter in text)
    return "" if text.startswith("/") and inside else "a context path begins with /, and has no spaces, .., ? and #"


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainMapping(Part):
    """One name."""

    cartridge_alias: str = key("cartridgeAlias", Id(), required=True)
    domain_name: str = key("domainName", Text(domain_fault), required=True)
    #: Empty: every path.
    context_path: str = key("contextPath", Text(context_fault, limit=2048))


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainMappings(Part):
    """Names of one application, which Stratos names in the path of the call; a document may name it itself."""

    application_id: str = key("applicationId", Id())
    mappings: tuple[DomainMapping, ...] = key("domainMappings", Listing(Nested(DomainMapping)), required=True)

    def check(self, findings: Findings) -> None:
        seen: set[tuple[str, str]] = set()
        for mapping in self.mappings:
            where = (mapping.domain_name.lower(), mapping.context_path.rstrip("/"))
            if mapping.domain_name and where in seen:
                findings.refuse(mapping.at, "DUPLICATE", "the same name and path are mapped twice")
            seen.add(where)
