"""Extra names of networks: made, changed and deleted. They end with their network."""

from dataclasses import replace

from controlplane.domain.dns import DnsRecord, DnsRecordSpec
from controlplane.domain.instances import DesiredState
from controlplane.domain.kinds import DNS_RECORD, INSTANCE
from controlplane.domain.names import check_id
from controlplane.domain.networks import Network
from controlplane.networks.records import RECORD_LIMIT, check_beside, check_record, default_id, full_name
from controlplane.services import lookup
from controlplane.services.context import Context
from controlplane.services.dry_run import commit
from controlplane.services.paging import Page, PageRequest, list_page
from moorage.errors import AlreadyExists, Exhausted, InvalidSpec
from moorage.store.base import Transaction, View

_FIELD = "dns_record.spec"


class DnsService:
    """What callers can do with records."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(
        self,
        project_id: str,
        network_id: str,
        record_id: str,
        spec: DnsRecordSpec,
        *,
        request_key: str = "",
        body: bytes = b"",
        validate_only: bool = False,
    ) -> DnsRecord:
        """Make a record.

        Args:
            record_id: the last part of its name; empty: made from what it says.
        Raises:
            InvalidSpec (RECORD_INVALID, RECORD_CLASHES, DNS_NAME_TAKEN), AlreadyExists, NotFound (network), Exhausted.
        """
        uid = self._context.new_id()

        def make(tx: Transaction) -> DnsRecord:
            if request_key and (names := lookup.remembered(tx, request_key, body)) is not None:
                return lookup.dns_record(tx, project_id, network_id, names[0].rpartition("/")[2])
            network = lookup.network(tx, project_id, network_id)
            violations = check_record(spec, network.dns_domain, _FIELD)
            if record_id:
                violations += check_id(record_id, "dns_record_id")
            beside = [found.value.spec for found in tx.find(DNS_RECORD, "network", network.uid)]
            violations = violations or check_beside(spec, beside, _members(tx, network), _FIELD)
            if violations:
                raise InvalidSpec(violations)
            if len(beside) >= RECORD_LIMIT:
                raise Exhausted(
                    f"{network.name} has {RECORD_LIMIT} records, the most that a network can have",
                    reason="RECORDS_EXHAUSTED",
                )
            record = DnsRecord(
                uid,
                project_id,
                network_id,
                network.uid,
                record_id or default_id(spec),
                self._context.clock.now(),
                spec,
            )
            if tx.get(DNS_RECORD, DNS_RECORD.key(record)) is not None:
                raise AlreadyExists(f"{record.name} exists; choose another name", metadata={"name": record.name})
            tx.put(DNS_RECORD, record)
            if request_key:
                lookup.remember(tx, request_key, body, (record.name,), self._context.clock.now())
            return record

        return await commit(self._context.store, make, validate_only=validate_only)

    def get(self, project_id: str, network_id: str, record_id: str) -> DnsRecord:
        """One record. Raises NotFound."""
        return lookup.dns_record(self._context.store.view(), project_id, network_id, record_id)

    def list(self, project_id: str, network_id: str, request: PageRequest) -> Page[DnsRecord]:
        """A page of a network's records. Raises NotFound."""
        view = self._context.store.view()
        network = lookup.network(view, project_id, network_id)
        prefix = f"{project_id}/{network_id}/"
        return list_page(view, DNS_RECORD, request, scope=f"records of {network.uid}", prefix=prefix)

    async def update(
        self,
        project_id: str,
        network_id: str,
        record_id: str,
        *,
        values: tuple[str, ...] | None = None,
        ttl_seconds: float | None = None,
        etag: str = "",
        validate_only: bool = False,
    ) -> DnsRecord:
        """Change values or time to live. Raises NotFound, InvalidSpec (RECORD_INVALID), VersionConflict."""

        def change(tx: Transaction) -> DnsRecord:
            record = lookup.dns_record(tx, project_id, network_id, record_id)
            lookup.check_etag(record, etag, record.name)
            spec = record.spec if values is None else replace(record.spec, values=values)
            spec = spec if ttl_seconds is None else replace(spec, ttl_seconds=ttl_seconds)
            violations = check_record(spec, lookup.network(tx, project_id, network_id).dns_domain, _FIELD)
            if violations:
                raise InvalidSpec(violations)
            changed = replace(record, spec=spec, generation=record.generation + 1)
            tx.put(DNS_RECORD, changed)
            return changed

        return await commit(self._context.store, change, validate_only=validate_only)

    async def delete(self, project_id: str, network_id: str, record_id: str, *, etag: str = "") -> None:
        """Delete a record. Raises NotFound, VersionConflict."""

        def remove(tx: Transaction) -> None:
            record = lookup.dns_record(tx, project_id, network_id, record_id)
            lookup.check_etag(record, etag, record.name)
            tx.delete(DNS_RECORD, DNS_RECORD.key(record))

        await self._context.store.update(remove)

    def fqdn(self, record: DnsRecord) -> str:
        """The full name that a record is found under. Raises NotFound: its network has just gone."""
        network = lookup.network(self._context.store.view(), record.project, record.network)
        return full_name(record.spec.name, network.dns_domain)


def forget_records(tx: Transaction, network: Network) -> None:
    """Delete all records of a network that is being deleted."""
    for found in tx.find(DNS_RECORD, "network", network.uid):
        tx.delete(DNS_RECORD, DNS_RECORD.key(found.value))


def _members(view: View, network: Network) -> set[str]:
    """The names of a network's members, lower-case."""
    return {
        name.lower()
        for found in view.find(INSTANCE, "network", network.uid)
        if found.value.desired is not DesiredState.DELETED
        for name in (found.value.id, found.value.effective.hostname)
    }
