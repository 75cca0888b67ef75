from tests.unit.routers.conftest import members, world

__all__ = ["members", "world"]
