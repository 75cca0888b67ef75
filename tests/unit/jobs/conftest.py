from tests.unit.controlplane.conftest import world

__all__ = ["world"]
