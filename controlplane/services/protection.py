"""Objects that nobody may delete until their delete protection is cleared."""

from moorage.errors import NotReady


def refuse_protected(name: str, *, is_protected: bool, command: str) -> None:
    """Let an object pass that may be deleted.

    Args:
        command: with which its protection is cleared.
    Raises:
        NotReady: DELETE_PROTECTED.
    """
    if is_protected:
        raise NotReady(
            f"{name} is protected against deletion, and force does not override it; `{command}` clears that",
            reason="DELETE_PROTECTED",
            metadata={"name": name},
        )
