"""Extra names of networks: mirrors protos/moorage/v1/dns.proto."""

import enum
from dataclasses import dataclass
from datetime import datetime


class DnsRecordType(enum.Enum):
    """What a name stands for."""

    UNSPECIFIED = 0
    A = 1
    AAAA = 2
    CNAME = 3
    TXT = 4
    SRV = 5
    MX = 6


@dataclass(frozen=True, slots=True)
class DnsRecordSpec:
    """What the user asks of a record."""

    name: str = ""
    type: DnsRecordType = DnsRecordType.UNSPECIFIED
    values: tuple[str, ...] = ()
    ttl_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class DnsRecord:
    """A name of a network, with all its values of one type."""

    uid: str
    project: str
    network: str
    network_uid: str
    id: str
    create_time: datetime
    spec: DnsRecordSpec
    generation: int = 1

    @property
    def name(self) -> str:
        """projects/{project}/networks/{network}/records/{record}."""
        return f"projects/{self.project}/networks/{self.network}/records/{self.id}"
