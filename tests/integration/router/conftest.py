"""Fixtures of the router's tests."""

from tests.integration.router.haproxy_bed import router

__all__ = ["router"]
