"""Docker's configuration file as we need it: what to merge in, what to take back, what was never applied. Pure.

All that we do not know is kept as it is. A file that is no JSON object is refused: whoever wrote it has to mend it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hostagent.engine.values import EngineInfo
from moorage.errors import InvalidSpec

RUNTIME = "moorage"
_CGROUP_OPTION = "native.cgroupdriver="


@dataclass(frozen=True, slots=True)
class Merge:
    """A new text of the file, and what stood there before, which taking back needs. `runtime_before` None: nothing."""

    text: str
    live_restore_before: bool | None
    runtime_before: Mapping[str, Any] | None


def parse(text: str | None) -> dict[str, Any]:
    """The content of the file; None (no file) and an empty one are an empty object.

    Raises:
        InvalidSpec: DAEMON_JSON_INVALID.
    """
    if text is None or not text.strip():
        return {}
    try:
        content = json.loads(text)
    except ValueError as exc:
        raise InvalidSpec.of("daemon.json", f"is not JSON ({exc}); mend it first", "DAEMON_JSON_INVALID") from exc
    if not isinstance(content, dict):
        raise InvalidSpec.of("daemon.json", "is not a JSON object; mend it first", "DAEMON_JSON_INVALID")
    if not isinstance(content.get("runtimes", {}), dict):
        raise InvalidSpec.of("daemon.json", "`runtimes` is not an object; mend it first", "DAEMON_JSON_INVALID")
    return content


def merge(text: str | None, runtime_path: str) -> Merge | None:
    """The file with our runtime and live-restore; None if it has both already.

    Raises:
        InvalidSpec: DAEMON_JSON_INVALID.
    """
    content = parse(text)
    runtimes = dict(content.get("runtimes", {}))
    before, runtime_before = content.get("live-restore"), runtimes.get(RUNTIME)
    if before is True and runtime_before == {"path": runtime_path}:
        return None
    runtimes[RUNTIME] = {"path": runtime_path}
    merged = {**content, "runtimes": runtimes, "live-restore": True}
    return Merge(_dump(merged), before, runtime_before)


def take_back(
    text: str | None, *, live_restore_before: bool | None, runtime_before: Mapping[str, Any] | None
) -> str | None:
    """The file without what `merge` put in; what was changed since is kept. None: nothing is left of it.

    Raises:
        InvalidSpec: DAEMON_JSON_INVALID.
    """
    content = parse(text)
    runtimes = dict(content.get("runtimes", {}))
    if runtime_before is not None:
        runtimes[RUNTIME] = dict(runtime_before)
    else:
        runtimes.pop(RUNTIME, None)
    if runtimes:
        content["runtimes"] = runtimes
    else:
        content.pop("runtimes", None)
    if content.get("live-restore") is True:
        if live_restore_before is None:
            content.pop("live-restore")
        else:
            content["live-restore"] = live_restore_before
    return _dump(content) if content else None


def never_applied(text: str | None, info: EngineInfo) -> list[str]:
    """Settings of the file that the running engine does not have: a reload of ours would bring them in unasked.

    Only what the engine reports can be compared.
    """
    content = parse(text)
    found = []
    for key, actual in (
        ("live-restore", info.live_restore),
        ("data-root", info.data_root),
        ("storage-driver", info.storage_driver),
        ("experimental", info.experimental),
    ):
        wanted = content.get(key)
        if wanted is not None and wanted != actual:
            found.append(f"{key}: the file says {json.dumps(wanted)}, the engine has {json.dumps(actual)}")
    if content.get("userns-remap") and not info.userns_remap:
        found.append("userns-remap: the file turns it on, the engine runs without")
    for option in content.get("exec-opts", ()):
        if str(option).startswith(_CGROUP_OPTION) and str(option) != _CGROUP_OPTION + info.cgroup_driver:
            found.append(f"exec-opts: the file says {option}, the engine uses {info.cgroup_driver}")
    for name, runtime in content.get("runtimes", {}).items():
        path = runtime.get("path") if isinstance(runtime, dict) else None
        if name not in info.runtimes:
            found.append(f"runtimes: the file has {name}, the engine has not")
        elif path and info.runtimes[name] and info.runtimes[name] != path:
            found.append(f"runtimes: {name} is {path} in the file, {info.runtimes[name]} in the engine")
    return found


def has_taken(info: EngineInfo, runtime_path: str) -> bool:
    """Whether the engine runs with what `merge` put in."""
    return info.live_restore and info.runtimes.get(RUNTIME) in (runtime_path, "")


def _dump(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
