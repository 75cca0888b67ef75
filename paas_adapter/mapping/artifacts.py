"""Where a member finds its artifacts, and where they come from."""

from paas_adapter.documents.artifact_repository import ArtifactRepository
from paas_adapter.documents.cartridge import Cartridge
from paas_adapter.documents.places import Findings
from paas_adapter.mapping.model import ArtifactMount, Repository, Volume


def repository_of(given: ArtifactRepository | None) -> Repository | None:
    """What is fetched; None: nothing is."""
    if given is None or not given.is_fetched:
        return None
    return Repository(
        given.url,
        given.ref,
        given.directory,
        given.depth or 1,
        given.submodules,
        given.username,
        given.password,
        given.at,
    )


def artifacts_of(
    cartridge: Cartridge, given: ArtifactRepository | None, volumes: tuple[Volume, ...], findings: Findings
) -> ArtifactMount | None:
    """The folder of artifacts; None where there is no folder for them, or nothing ever comes into it."""
    repository = repository_of(given)
    deployment = cartridge.deployment
    if deployment is None or not deployment.base_dir:
        if given is not None and repository is not None:
            message = f"artifacts are not used: the cartridge {cartridge.type} has no deployment.baseDir"
            findings.note(given.at, "NOT_USED", message)
        return None
    if repository is None and not cartridge.multi_tenant:
        return None
    place = deployment.at.below("baseDir")
    target = deployment.base_dir.rstrip("/")
    if not target:
        findings.refuse(place, "BAD_VALUE", "artifacts cannot take the place of the whole file system")
        return None
    if any(volume.target.rstrip("/") == target for volume in volumes):
        findings.refuse(place, "DUPLICATE", f"a volume is at {target} too")
        return None
    return ArtifactMount(target, repository, place)
