"""Puts the platform's own images in place of the names that a Dockerfile builds on. Pure.

Giving the engine's images those names instead would take them from the host's own user, who may have a `debian:12`
of his own.
"""

import re
from collections.abc import Mapping

_FROM = re.compile(r"^(\s*FROM\s+(?:--platform=\S+\s+)?)(\S+)(.*)$", re.IGNORECASE)
_STAGE = re.compile(r"^\s+AS\s+(\S+)", re.IGNORECASE)
_COPY_FROM = re.compile(r"^(\s*COPY\s+(?:--\S+\s+)*?--from=)(\S+)(.*)$", re.IGNORECASE)


def rewrite_bases(text: str, images: Mapping[str, str]) -> str:
    """The Dockerfile with each image of `images` that FROM or COPY --from names replaced; names of stages are left
    alone.
    """
    stages: set[str] = set()
    lines = []
    for line in text.splitlines(keepends=True):
        body = line.rstrip("\r\n")
        ending = line[len(body) :]
        if match := _FROM.match(body):
            before, image, after = match.groups()
            if image.lower() not in stages:
                body = before + images.get(image, image) + after
            if stage := _STAGE.match(after):
                stages.add(stage[1].lower())
        elif match := _COPY_FROM.match(body):
            before, image, after = match.groups()
            if image.lower() not in stages:
                body = before + images.get(image, image) + after
        lines.append(body + ending)
    return "".join(lines)
