from tests.unit.controlplane.conftest import world as world
