"""From what people write of a secret or config that an instance gets to its message. Pure."""

from typing import Any

from cli.names import in_project
from moorage.errors import InvalidSpec
from moorage.v1 import secret_uses_pb2

_ON_ROTATE = {
    "keep": secret_uses_pb2.ON_ROTATE_KEEP,
    "restart": secret_uses_pb2.ON_ROTATE_RESTART,
    "signal": secret_uses_pb2.ON_ROTATE_SIGNAL,
}
_EXAMPLE = "write NAME[,version=N][,path=/run/secrets/x][,mode=0440][,uid=N][,gid=N][,rotate=keep|restart|signal][,signal=SIGHUP]"


def secret_use(project: str, word: str) -> secret_uses_pb2.SecretUse:
    """`NAME[,env=VARIABLE][,KEY=VALUE]...`. Raises InvalidSpec."""
    use = secret_uses_pb2.SecretUse()
    use.secret, env = _fill(use, project, "secrets", word)
    use.env = env
    return use


def config_use(project: str, word: str) -> secret_uses_pb2.ConfigUse:
    """`NAME[,KEY=VALUE]...`. Raises InvalidSpec."""
    use = secret_uses_pb2.ConfigUse()
    use.config, env = _fill(use, project, "configs", word)
    if env:
        raise InvalidSpec.of("config", f"{word!r}: a config is a file; {_EXAMPLE}")
    return use


def _fill(use: Any, project: str, collection: str, word: str) -> tuple[str, str]:
    option = collection.removesuffix("s")
    name, *parts = word.split(",")
    if not name:
        raise InvalidSpec.of(option, f"{word!r} names nothing; {_EXAMPLE}")
    env = ""
    for part in parts:
        key, _, value = part.partition("=")
        match key:
            case "env" if value:
                env = value
            case "path" if value:
                use.file.path = value
            case "version" if value.isdecimal():
                use.version = min(int(value), 2**62)
            case "mode" if value and not set(value) - set("01234567"):
                use.file.mode = min(int(value, 8), 2**30)
            case "uid" | "gid" if value.isdecimal():
                setattr(use.file, key, min(int(value), 2**31 - 1))
            case "rotate" if value in _ON_ROTATE:
                use.on_rotate = _ON_ROTATE[value]
            case "signal" if value:
                use.on_rotate, use.signal = _ON_ROTATE["signal"], value
            case _:
                raise InvalidSpec.of(option, f"{part!r} is not known; {_EXAMPLE}")
    return in_project(project, collection, name), env
