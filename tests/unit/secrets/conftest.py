import pytest

from controlplane.domain.kinds import CONFIG, SECRET
from controlplane.domain.secrets import Config, Secret
from controlplane.sealing import Sealer
from controlplane.services.secrets import SecretService
from tests.unit.controlplane.conftest import world as world
from tests.unit.controlplane.world import World

__all__ = ["world"]


@pytest.fixture
def sealer() -> Sealer:
    return Sealer(None)


@pytest.fixture
def secrets(world: World, sealer: Sealer) -> SecretService[Secret]:
    return SecretService(world.context, sealer, SECRET)


@pytest.fixture
def configs(world: World, sealer: Sealer) -> SecretService[Config]:
    return SecretService(world.context, sealer, CONFIG)
