"""Users of a tenant."""

from dataclasses import dataclass

from paas_adapter.documents.fields import Part, key
from paas_adapter.documents.scalars import Id, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Part):
    """Who may call."""

    name: str = key("userName", Id(), required=True)
    credential: str = key("credential", Text(), secret=True)
    role: str = key("role", Text(limit=200))
    first_name: str = key("firstName", Text())
    last_name: str = key("lastName", Text())
    email: str = key("email", Text())
    profile_name: str = key("profileName", Text(), unused="users have one profile")
