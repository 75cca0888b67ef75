"""Which token the way to the registry asks for while something is pushed."""

import pytest

from hostagent.images.proxy import PULL, PUSH
from hostagent.registry_door import token_beside_push
from moorage.errors import Forbidden, Unavailable


async def test_reading_beside_a_push_uses_the_right_to_push() -> None:
    async def ask(repository: str, actions: frozenset[str]) -> str:
        return f"{repository} {sorted(actions)}"

    assert await token_beside_push(ask, "a", PULL) == f"a {sorted(PUSH)}"


async def test_a_grant_that_outlived_its_task_does_not_keep_from_reading() -> None:
    async def ask(repository: str, actions: frozenset[str]) -> str:
        if actions == PUSH:
            raise Forbidden("no build of this host goes there", reason="NOT_YOUR_REPOSITORY")
        return "read"

    assert await token_beside_push(ask, "a", PULL) == "read"


async def test_other_trouble_is_not_hidden() -> None:
    async def ask(repository: str, actions: frozenset[str]) -> str:
        raise Unavailable("away")

    with pytest.raises(Unavailable):
        await token_beside_push(ask, "a", PULL)
