"""Forms of words that many options share. Pure."""

from collections.abc import Iterable, Mapping

from moorage.errors import InvalidSpec


def key_values(option: str, words: Iterable[str], *, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """`K=V` words; with `environment` a bare `K` takes its value from there, or is left out, as `docker run -e` does.

    Raises:
        InvalidSpec: not of this form.
    """
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or (not equals and environment is None):
            raise InvalidSpec.of(option, f"{word!r}: write KEY=VALUE")
        if equals:
            found[key] = value
        elif environment is not None and key in environment:
            found[key] = environment[key]
    return found
