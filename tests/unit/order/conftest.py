from tests.unit.rollout.conftest import world

__all__ = ["world"]
