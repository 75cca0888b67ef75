"""The file that remembers control planes and keys: ~/.config/moorage/config.yaml.

Invariants: the file is readable by its owner only, from its first byte on, and is replaced as a whole, so that a crash
leaves the old one. Certificates are kept in it, not paths to them.
"""

import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from moorage.errors import InvalidSpec, NotFound

DEFAULT_PROJECT = "default"


@dataclass(frozen=True, slots=True)
class Context:
    """One control plane: where it is, who we are there, and in which project we work."""

    address: str
    api_key: str = field(default="", repr=False)
    ca_pem: str = ""
    project: str = DEFAULT_PROJECT


@dataclass(frozen=True, slots=True)
class Contexts:
    """All that are remembered, by name, and the one in use."""

    current: str = ""
    by_name: dict[str, Context] = field(default_factory=dict)

    def get(self, name: str = "") -> Context | None:
        """The named one, or the current one; None if there is no current one.

        Raises:
            NotFound: there is none of that name.
        """
        if not name and not self.current:
            return None
        wanted = name or self.current
        if wanted not in self.by_name:
            raise NotFound(f"there is no context {wanted}; see `moor context ls`", reason="CONTEXT_NOT_FOUND")
        return self.by_name[wanted]

    def with_context(self, name: str, context: Context) -> "Contexts":
        """Remember one, and use it."""
        return Contexts(current=name, by_name={**self.by_name, name: context})

    def without(self, name: str) -> "Contexts":
        """Forget one. If it was in use, none is."""
        rest = {key: value for key, value in self.by_name.items() if key != name}
        return Contexts(current="" if name == self.current else self.current, by_name=rest)

    def use(self, name: str, *, project: str | None = None) -> "Contexts":
        """Use another one, or another project of it."""
        found = self.get(name)
        assert found is not None
        if project is not None:
            found = replace(found, project=project)
        return Contexts(current=name, by_name={**self.by_name, name: found})


def config_path() -> Path:
    """Where the file is: below XDG_CONFIG_HOME, by default ~/.config."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "moorage" / "config.yaml"


def load(path: Path) -> Contexts:
    """What the file says; nothing if there is none.

    Raises:
        InvalidSpec: it is no file of ours, or cannot be read.
    """
    import yaml

    try:
        raw: Any = yaml.safe_load(path.read_text()) or {}
        entries = (raw.get("contexts") or {}).items()
        by_name = {str(name): Context(**{key: str(value) for key, value in entry.items()}) for name, entry in entries}
        return Contexts(current=str(raw.get("current") or ""), by_name=by_name)
    except FileNotFoundError:
        return Contexts()
    except OSError as exc:
        raise InvalidSpec.of(str(path), f"cannot be read: {exc.strerror}") from exc
    except (yaml.YAMLError, TypeError, AttributeError) as exc:
        raise InvalidSpec.of(str(path), "is not a configuration of moor; correct or remove it") from exc


def save(path: Path, contexts: Contexts) -> None:
    """Replace the file.

    Raises:
        InvalidSpec: it cannot be written.
    """
    import tempfile

    import yaml

    content = {
        "current": contexts.current,
        "contexts": {name: asdict(context) for name, context in sorted(contexts.by_name.items())},
    }
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".config-")  # mkstemp makes it 0600
        try:
            with os.fdopen(handle, "w") as file:
                yaml.safe_dump(content, file, sort_keys=False)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as exc:
        raise InvalidSpec.of(str(path), f"cannot be written: {exc.strerror}") from exc
