"""What each member of a cluster is: its cartridge, and what the application says about it."""

from paas_adapter.documents.application import Application, CartridgeRef
from paas_adapter.documents.cartridge import Cartridge
from paas_adapter.documents.near import near_miss
from paas_adapter.documents.places import Findings
from paas_adapter.documents.scalars import property_map
from paas_adapter.mapping import images, limits
from paas_adapter.mapping.artifacts import artifacts_of
from paas_adapter.mapping.environment import PREFIX, known, merge, only_payload, payload, port_mappings
from paas_adapter.mapping.images import template_of
from paas_adapter.mapping.limits import limits_of
from paas_adapter.mapping.model import ArtifactMount, Container, Port
from paas_adapter.mapping.names import host_label
from paas_adapter.mapping.ports import ports_of, readiness_of
from paas_adapter.mapping.settings import Settings
from paas_adapter.mapping.volumes import volumes_of

AFFINITY = "KUBERNETES_SERVICE_SESSION_AFFINITY"
#: Properties of cartridges that something is done with.
READ = (limits.CPU, limits.MEMORY, images.PULL_POLICY, images.PULL_SECRETS, AFFINITY)


def cluster_id(application: Application, member: CartridgeRef) -> str:
    """The id that Stratos gave a cluster, which images and scripts look for."""
    return f"{application.application_id}.{member.alias}.{member.type}.domain"


def host_name_of(application: Application, member: CartridgeRef, cartridge: Cartridge) -> str:
    """The name under which clients reach a cluster."""
    own = f"{host_label(application.application_id)}.{host_label(member.alias)}"
    rest = ".".join(host_label(part) for part in cartridge.host.split(".") if part)
    return f"{own}.{rest}" if rest else own


def is_sticky(cartridge: Cartridge) -> bool:
    """Whether a client comes back to the same member."""
    given = property_map(cartridge.properties).get(AFFINITY)
    return given is not None and given.value == "ClientIP"


def check_properties(cartridge: Cartridge, findings: Findings) -> None:
    """Tells which properties of a cartridge nothing is done with."""
    for one in cartridge.properties:
        if one.name in READ or one.name.startswith(PREFIX):
            continue
        likely = near_miss(one.name.partition(".")[0], (*READ, PREFIX.rstrip(".")))
        hint = f"; {likely} is likely meant" if likely else ""
        findings.note(one.at, "NOT_USED", f"the property {one.name} is not used{hint}")


def _told(
    application: Application,
    member: CartridgeRef,
    cartridge: Cartridge,
    group: str,
    ports: tuple[Port, ...],
    artifacts: ArtifactMount | None,
) -> dict[str, str]:
    """What images that were made for Stratos look for."""
    info = member.info
    told = {
        "APPLICATION_ID": application.application_id,
        "GROUP_NAME": group,
        "SERVICE_NAME": member.type,
        "HOST_NAME": host_name_of(application, member, cartridge),
        "MULTITENANT": "true" if cartridge.multi_tenant else "false",
        "CARTRIDGE_ALIAS": member.alias,
        "CLUSTER_ID": cluster_id(application, member),
        "PROVIDER": cartridge.provider,
        "PORTS": "|".join(str(port.number) for port in ports),
        "PORT_MAPPINGS": port_mappings(ports),
        "APPLICATION_PATH": artifacts.target if artifacts else "",
        "REPO_URL": artifacts.repository.url if artifacts and artifacts.repository else "",
        "DEPENDENCY_ALIASES": ",".join(info.dependency_aliases) if info else "",
    }
    return {name: value for name, value in told.items() if value}


def container_of(
    application: Application,
    member: CartridgeRef,
    cartridge: Cartridge,
    group: str,
    settings: Settings,
    findings: Findings,
) -> Container | None:
    """The container of a cluster in a group (alias; empty: in none); None after a problem with its image."""
    info = member.info
    template = template_of(cartridge, settings, findings)
    ports = ports_of(cartridge)
    persistence = (info.persistence if info else None) or cartridge.persistence
    volumes = volumes_of(persistence, member.most, findings)
    artifacts = artifacts_of(cartridge, info.artifact_repository if info else None, volumes, findings)
    limits = limits_of(cartridge.properties, findings)
    env = merge(
        known(_told(application, member, cartridge, group, ports, artifacts), member.at),
        payload(cartridge.properties, findings),
        only_payload(application.properties, findings),
        only_payload(info.properties if info else (), findings),
    )
    if template is None:
        return None
    return Container(template, env, limits, ports, readiness_of(ports), volumes, artifacts)
