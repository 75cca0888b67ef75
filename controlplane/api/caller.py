"""Who is calling, for the handlers of one call."""

from contextvars import ContextVar

from controlplane.access.roles import AgentCaller, Caller
from moorage.errors import Internal

CURRENT: ContextVar[Caller | AgentCaller | None] = ContextVar("caller", default=None)


def current_user() -> Caller:
    """The user; a handler that the table lets only users into may rely on it."""
    caller = CURRENT.get()
    if not isinstance(caller, Caller):
        raise Internal("this handler is for users")
    return caller


def current_host() -> str:
    """Uid of the calling host."""
    caller = CURRENT.get()
    if not isinstance(caller, AgentCaller):
        raise Internal("this handler is for agents")
    return caller.host_uid
