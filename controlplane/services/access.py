"""API keys: who is calling, and the keys that prove it."""

from datetime import datetime

from controlplane.access import keys
from controlplane.access.keys import ApiKey
from controlplane.access.roles import Caller
from controlplane.domain.kinds import API_KEY, MEMBER
from controlplane.services.context import Context
from controlplane.services.paging import Page, PageRequest, list_page
from moorage.errors import InvalidSpec, NotFound
from moorage.store.base import Transaction


class AccessService:
    """Keys, and the callers that they stand for."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def authenticate(self, authorization: str | None) -> Caller:
        """Who holds the key in an `authorization` header, with the roles of now.

        Raises:
            Unauthenticated: KEY_MISSING, KEY_MALFORMED, KEY_UNKNOWN, KEY_EXPIRED.
        """
        presented = keys.parse(authorization)
        view = self._context.store.view()
        found = view.get(API_KEY, presented.id)
        key = keys.verify(found.value if found is not None else None, presented, self._context.clock.now())
        roles = {member.value.project: member.value.role for member in view.find(MEMBER, "user", key.user)}
        return Caller(key.user, key.fleet_admin, roles, key.id)

    async def ensure_admin(self) -> str | None:
        """The text of the first admin key if there is no key at all yet; None otherwise."""
        record, text = keys.mint(
            "admin", now=self._context.clock.now(), description="made at first start", fleet_admin=True
        )

        def make(tx: Transaction) -> bool:
            if tx.count(API_KEY):
                return False
            tx.put(API_KEY, record)
            return True

        return text if await self._context.store.update(make) else None

    async def create(
        self, caller: Caller, user: str, description: str, expires_at: datetime | None, fleet_admin: bool
    ) -> tuple[ApiKey, str]:
        """A new key, and its text, which cannot be read again. Raises Forbidden, InvalidSpec."""
        user = user or caller.user
        keys.require_may_create(caller, user=user, fleet_admin=fleet_admin)
        if "/" in user or len(user) > 128:
            raise InvalidSpec.of("api_key.user", "must be at most 128 characters without a slash", "NAME_INVALID")
        now = self._context.clock.now()
        if expires_at is not None and expires_at <= now:
            raise InvalidSpec.of("api_key.expire_time", "must lie in the future", "OUT_OF_RANGE")
        record, text = keys.mint(user, now=now, description=description, expires_at=expires_at, fleet_admin=fleet_admin)
        await self._context.store.update(lambda tx: tx.put(API_KEY, record))
        return record, text

    def list(self, caller: Caller, request: PageRequest) -> Page[ApiKey]:
        """A page of the keys that the caller may see."""
        return list_page(
            self._context.store.view(), API_KEY, request, scope="apiKeys", admits=lambda key: keys.may_see(caller, key)
        )

    async def delete(self, caller: Caller, key_id: str) -> None:
        """End a key at once. Raises NotFound, also for a key that the caller may not see."""

        def remove(tx: Transaction) -> None:
            found = tx.get(API_KEY, key_id)
            if found is None or not keys.may_see(caller, found.value):
                raise NotFound(f"apiKeys/{key_id} does not exist", metadata={"name": f"apiKeys/{key_id}"})
            tx.delete(API_KEY, key_id)

        await self._context.store.update(remove)
