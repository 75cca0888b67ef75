"""Sign-ups: a tenant joins an application that serves many."""

from dataclasses import dataclass

from paas_adapter.documents.artifact_repository import ArtifactRepository
from paas_adapter.documents.fields import Listing, Nested, Part, key
from paas_adapter.documents.places import Findings
from paas_adapter.documents.scalars import Id


@dataclass(frozen=True, slots=True, kw_only=True)
class SignUp(Part):
    """The artifacts of one tenant. Stratos names the application in the path of the call; a document may name it itself."""

    application_id: str = key("applicationId", Id())
    artifact_repositories: tuple[ArtifactRepository, ...] = key(
        "artifactRepositories", Listing(Nested(ArtifactRepository))
    )

    def check(self, findings: Findings) -> None:
        seen: set[str] = set()
        for repository in self.artifact_repositories:
            if not repository.alias:
                findings.refuse(repository.at, "MISSING", "alias is missing")
            elif repository.alias in seen:
                findings.refuse(repository.at.below("alias"), "DUPLICATE", f"{repository.alias} is there twice")
            seen.add(repository.alias)
