"""Which nouns files can have, and how the API's messages for each are found: by their names, which all follow one pattern."""

import importlib
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

#: What people write; the rest is the control plane's.
_WRITTEN = frozenset({"labels", "spec", "description", "delete_protection", "source", "defaults"})


@dataclass(frozen=True, slots=True)
class Noun:
    """A noun of a project.

    Args:
        kind: the message, such as SecurityGroup; its document begins with it.
        collection: of its names, such as securityGroups.
        stub: the client's attribute.
        rank: what may be needed by others comes first; deleted in the opposite order.
        above: the collection that its names are below; empty: of the project itself.
        module: with its messages; empty: named as the stub.
    """

    kind: str
    collection: str
    stub: str
    rank: int
    above: str = ""
    module: str = ""

    @property
    def message(self) -> Any:
        """The class of its message."""
        return getattr(self._module, self.kind)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that a document may have, in their order in the message."""
        return tuple(field.name for field in self.message.DESCRIPTOR.fields if field.name in _WRITTEN)

    def request(self, verb: str) -> Any:
        """The class of a request, such as that of Create."""
        plural = f"{self.collection[0].upper()}{self.collection[1:]}" if not self.above else f"{self.kind}s"
        return getattr(self._module, f"{verb}{plural if verb == 'List' else self.kind}Request")

    def method(self, client: Any, verb: str) -> Any:
        """The call of a verb."""
        return getattr(getattr(client, self.stub), self.request(verb).__name__.removesuffix("Request"))

    def body_field(self, verb: str) -> str:
        """The field of a request that holds the object."""
        descriptor = self.request(verb).DESCRIPTOR
        return str(next(field.name for field in descriptor.fields if field.message_type is self.message.DESCRIPTOR))

    @property
    def id_field(self) -> str:
        """The field of its create that holds the last part of the name."""
        names = [str(field.name) for field in self.request("Create").DESCRIPTOR.fields]
        return next(name for name in names if name.endswith("_id") and name != "request_id")

    def listed(self, response: Any) -> Any:
        """The objects of a page."""
        fields = response.DESCRIPTOR.fields
        own = next(f for f in fields if f.is_repeated and f.type == FieldDescriptor.TYPE_MESSAGE)
        return getattr(response, own.name)

    @property
    def _module(self) -> Any:
        return importlib.import_module(f"moorage.v1.{self.module or self.stub}_pb2")

    def full_name(self, project: str, text: str) -> str:
        """Of what a document calls it: a full name, ID, or PARENT/ID. Empty: it cannot be such a name."""
        parts = text.split("/")
        if text.startswith("projects/"):
            below = parts[2:] if len(parts) in (4, 6) else []
        elif self.above:
            below = [self.above, parts[0], self.collection, parts[1]] if len(parts) == 2 else []
        else:
            below = [self.collection, text] if len(parts) == 1 else []
        wanted = [self.above, self.collection] if self.above else [self.collection]
        if below[0::2] != wanted or not all(below):
            return ""
        return "/".join([*(parts[:2] if text.startswith("projects/") else [project]), *below])

    def short_name(self, name: str) -> str:
        """As a document has it."""
        parts = name.split("/")
        return "/".join(parts[3::2])

    @staticmethod
    def parent(name: str) -> str:
        """What an object of this full name is made in."""
        return name.rsplit("/", 2)[0]


NOUNS: tuple[Noun, ...] = (
    Noun("Template", "templates", "templates", 1),
    Noun("Network", "networks", "networks", 1),
    Noun("Secret", "secrets", "secrets", 1),
    Noun("Config", "configs", "configs", 1),
    Noun("Volume", "volumes", "volumes", 1),
    Noun("SecurityGroup", "securityGroups", "security_groups", 2),
    Noun("DnsRecord", "records", "dns", 2, above="networks"),
    Noun("PublicAddress", "publicAddresses", "public_addresses", 2),
    Noun("Router", "routers", "routers", 3),
    Noun("Instance", "instances", "instances", 4),
    Noun("Job", "jobs", "jobs", 4),
    Noun("Group", "groups", "groups", 4),
    Noun("CronJob", "cronJobs", "cron_jobs", 5, module="jobs"),
    Noun("RouterRule", "rules", "router_rules", 6, above="routers"),
    Noun("Balancer", "balancers", "balancers", 6, above="routers"),
)
BY_KIND = {noun.kind: noun for noun in NOUNS}
