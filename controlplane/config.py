"""The control plane's configuration: a YAML file, every bad field named at once."""

import ipaddress
import re
import ssl
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from controlplane.domain.claims import DEFAULT_TERMS as DEFAULT_LEASES
from controlplane.domain.claims import LeaseTerms
from controlplane.liveness.terms import DEFAULT_TERMS, ROUND_SECONDS, LivenessTerms
from controlplane.rebalance.plan import DEFAULT_TERMS as DEFAULT_REBALANCING
from controlplane.rebalance.plan import RebalanceTerms
from moorage.errors import FieldViolation, InvalidSpec
from moorage.logs import LEVELS

_SECONDS = (
    *("heartbeat_seconds", "silent_after_seconds", "lost_after_seconds", "agent_restart_seconds"),
    *("lease_seconds", "lease_renewal_seconds"),
)
_NUMBERS = {
    "rebalance_at_once": (0, 100),
    "rebalance_per_hour": (1, 1000),
    "rebalance_threshold_percent": (5, 100),
}
_ORIGIN = re.compile(r"https://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Config:
    """What an operator can set. Addresses are host:port.

    Attributes:
        data_dir: holds everything that must survive: store, keys, images.
        api_listen: where callers connect (TLS, API keys).
        agent_listen: where agents connect (TLS, host certificates).
        registry_listen: where the registry that we run listens; agents reach it. Not used with registry_url.
        registry_url: `https://host[:port]` of a registry to use in place of one that we run; empty: run our own.
        registry_ca_file: PEM of what signed that registry's certificate; empty: the system's authorities.
        advertise: names and addresses by which others reach this machine: they go into its certificate, and the first one
            is what agents are told.
        plain_http_registries: foreign registries that may be spoken to without TLS.
        outbound_denied: CIDRs that the control plane never connects to on a user's word.
        outbound_allowed: CIDRs that it may connect to although they are loopback or denied.
        lease_seconds: length of the leases under which instances run that claim something, 5 to 600.
        lease_renewal_seconds: how often agents ask for them anew, 0.2 to a fifth of that.
        log_format: "text" or "json".
        heartbeat_seconds: how often each agent is to be heard, 0.2 to 60.
        silent_after_seconds: a host that was not heard for so long is DISCONNECTED, and its neighbours are asked.
        lost_after_seconds: it is given up after that, if they do not reach it either.
        agent_restart_seconds: the same for a host whose agent has ended in order.
        rebalance_at_once: so many members of groups are moved at a time for balance, 0 to 100; 0: it is off.
        rebalance_per_hour: so many within an hour, 1 to 1000.
        rebalance_threshold_percent: how much fuller than another a host must be, 5 to 100.
    """

    data_dir: Path
    api_listen: tuple[str, ...] = ("127.0.0.1:7460",)
    agent_listen: tuple[str, ...] = ("0.0.0.0:7461",)
    registry_listen: str = "0.0.0.0:7462"
    registry_url: str = ""
    registry_ca_file: str = ""
    advertise: tuple[str, ...] = ("127.0.0.1",)
    plain_http_registries: tuple[str, ...] = ()
    outbound_denied: tuple[str, ...] = ()
    outbound_allowed: tuple[str, ...] = ()
    log_format: Literal["text", "json"] = "text"
    log_level: str = "info"
    heartbeat_seconds: float = DEFAULT_TERMS.heartbeat_seconds
    silent_after_seconds: float = DEFAULT_TERMS.silent_after_seconds
    lost_after_seconds: float = DEFAULT_TERMS.lost_after_seconds
    agent_restart_seconds: float = DEFAULT_TERMS.restart_seconds
    lease_seconds: float = DEFAULT_LEASES.lease_seconds
    lease_renewal_seconds: float = DEFAULT_LEASES.renewal_seconds
    rebalance_at_once: int = DEFAULT_REBALANCING.at_once
    rebalance_per_hour: int = DEFAULT_REBALANCING.per_hour
    rebalance_threshold_percent: int = DEFAULT_REBALANCING.threshold_percent

    @property
    def liveness(self) -> LivenessTerms:
        """How long a host may be silent."""
        return LivenessTerms(
            self.heartbeat_seconds, self.silent_after_seconds, self.lost_after_seconds, self.agent_restart_seconds
        )

    @property
    def rebalancing(self) -> RebalanceTerms:
        """How much is moved by itself."""
        return RebalanceTerms(self.rebalance_at_once, self.rebalance_per_hour, self.rebalance_threshold_percent)

    @property
    def lease_terms(self) -> LeaseTerms:
        """How leases are given."""
        return LeaseTerms(self.lease_seconds, self.lease_renewal_seconds)


def load(path: Path) -> Config:
    """Read a file.

    Raises:
        InvalidSpec: CONFIG_INVALID, every bad field at once.
    """
    try:
        document = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidSpec.of(str(path), f"cannot be read: {error}", "CONFIG_INVALID") from error
    if not isinstance(document, dict):
        raise InvalidSpec.of(str(path), "must be a mapping", "CONFIG_INVALID")
    return parse(document)


def parse(document: dict[str, Any]) -> Config:
    """The configuration that a document holds. Raises InvalidSpec like `load`."""
    known = {f.name for f in fields(Config)}
    found = [FieldViolation(str(key), "is no setting", "CONFIG_INVALID") for key in document if key not in known]
    values: dict[str, Any] = {}
    for name, value in document.items():
        if name in (
            "api_listen",
            "agent_listen",
            "advertise",
            "plain_http_registries",
            "outbound_denied",
            "outbound_allowed",
        ):
            items = [value] if isinstance(value, str) else value
            if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
                found.append(FieldViolation(name, "must be a list of texts", "CONFIG_INVALID"))
                continue
            if not items and name in ("api_listen", "agent_listen", "advertise"):
                found.append(FieldViolation(name, "must not be empty", "CONFIG_INVALID"))
            values[name] = tuple(items)
        elif name in _SECONDS:
            if isinstance(value, bool) or not isinstance(value, int | float):
                found.append(FieldViolation(name, "must be a number of seconds", "CONFIG_INVALID"))
                continue
            values[name] = float(value)
        elif name in _NUMBERS:
            least, greatest = _NUMBERS[name]
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= greatest:
                problem = f"must be a whole number between {least} and {greatest}"
                found.append(FieldViolation(name, problem, "CONFIG_INVALID"))
                continue
            values[name] = value
        elif name in known:
            if not isinstance(value, str):
                found.append(FieldViolation(name, "must be a text", "CONFIG_INVALID"))
                continue
            values[name] = Path(value) if name == "data_dir" else value
    for name in ("api_listen", "agent_listen"):
        found += [_bad_address(name, item) for item in values.get(name, ()) if not _is_address(item)]
    if "registry_listen" in values and not _is_address(values["registry_listen"]):
        found.append(_bad_address("registry_listen", values["registry_listen"]))
    found += _bad_registry(values.get("registry_url", ""), values.get("registry_ca_file", ""))
    found += _bad_leases(
        LeaseTerms(
            values.get("lease_seconds", DEFAULT_LEASES.lease_seconds),
            values.get("lease_renewal_seconds", DEFAULT_LEASES.renewal_seconds),
        )
    )
    if values.get("log_format", "text") not in ("text", "json"):
        found.append(FieldViolation("log_format", "must be text or json", "CONFIG_INVALID"))
    if values.get("log_level", "info") not in LEVELS:
        found.append(FieldViolation("log_level", f"must be one of {', '.join(LEVELS)}", "CONFIG_INVALID"))
    for name in ("outbound_denied", "outbound_allowed"):
        found += [
            FieldViolation(name, f"{item!r} is no subnet", "CONFIG_INVALID")
            for item in values.get(name, ())
            if not _is_subnet(item)
        ]
    if "data_dir" not in values:
        found.append(FieldViolation("data_dir", "is required", "CONFIG_INVALID"))
    if "data_dir" in values:
        found += _bad_liveness(Config(**values).liveness)
    if found:
        raise InvalidSpec(found, reason="CONFIG_INVALID")
    return Config(**values)


def _bad_liveness(terms: LivenessTerms) -> list[FieldViolation]:
    """A heartbeat that is a little late must not look like silence, and neighbours must have had the time to answer."""
    least_silent = 1.5 * terms.heartbeat_seconds
    least_lost = max(2.5 * terms.heartbeat_seconds, terms.silent_after_seconds + ROUND_SECONDS)
    rules = (
        ("heartbeat_seconds", 0.2 <= terms.heartbeat_seconds <= 60, "must be between 0.2 and 60"),
        (
            "silent_after_seconds",
            terms.silent_after_seconds >= least_silent,
            f"must be at least {least_silent:g}: one and a half heartbeats",
        ),
        (
            "lost_after_seconds",
            terms.lost_after_seconds >= least_lost,
            f"must be at least {least_lost:g}: two and a half heartbeats, and {ROUND_SECONDS:g} more than silent_after_seconds",
        ),
        (
            "agent_restart_seconds",
            terms.restart_seconds >= terms.lost_after_seconds,
            "must not be less than lost_after_seconds",
        ),
    )
    return [FieldViolation(name, problem, "CONFIG_INVALID") for name, holds, problem in rules if not holds]


def _bad_leases(terms: LeaseTerms) -> list[FieldViolation]:
    found = []
    if not 5.0 <= terms.lease_seconds <= 600.0:
        found.append(FieldViolation("lease_seconds", "must be between 5 and 600", "CONFIG_INVALID"))
    if not 0.2 <= terms.renewal_seconds <= terms.lease_seconds / 5.0:
        problem = "must be between 0.2 and a fifth of lease_seconds"
        found.append(FieldViolation("lease_renewal_seconds", problem, "CONFIG_INVALID"))
    return found


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isascii() and port.isdigit() and 0 <= int(port) <= 65535


def _bad_registry(url: str, ca_file: str) -> list[FieldViolation]:
    found = []
    if url and not _is_origin(url):
        found.append(FieldViolation("registry_url", f"{url!r} is not https://host[:port]", "CONFIG_INVALID"))
    if ca_file:
        if not url:
            found.append(
                FieldViolation("registry_ca_file", "is for a registry_url, and there is none", "CONFIG_INVALID")
            )
        try:
            ssl.create_default_context(cafile=ca_file)
        except OSError as error:  # ssl.SSLError, of a file without a certificate, is one too
            problem = f"{ca_file!r} holds no certificates that can be read: {error}"
            found.append(FieldViolation("registry_ca_file", problem, "CONFIG_INVALID"))
    return found


def _is_origin(url: str) -> bool:
    found = _ORIGIN.fullmatch(url)
    return found is not None and 0 < int(found["port"] or 443) <= 65535


def _is_subnet(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _bad_address(name: str, text: str) -> FieldViolation:
    return FieldViolation(name, f"{text!r} is not host:port", "CONFIG_INVALID")
