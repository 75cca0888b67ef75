"""From Docker's chatter about layers to one percentage. Pure.

Docker tells a layer's size only when its transfer starts, so the total grows on the way; the percentage counts
layers of unknown size as average ones and never falls.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hostagent.engine.values import PullProgress

_TRANSFER_SHARE = 0.7  # of a layer's work; the rest is unpacking
_WAITING = frozenset({"Pulling fs layer", "Waiting", "Preparing"})
_TRANSFERRED = frozenset({"Verifying Checksum", "Download complete"})
_DONE = frozenset({"Pull complete", "Already exists", "Pushed", "Layer already exists"})


@dataclass(slots=True)
class _Layer:
    share: float = 0.0  # of its work that is done, 0-1
    current_bytes: int = 0
    total_bytes: int = 0
    unpacking: bool = False


class LayerProgress:
    """Feed it every status line of a pull or push; it answers with the progress of the whole."""

    def __init__(self, transfer_phase: str = "DOWNLOADING") -> None:
        self._transfer_phase = transfer_phase
        self._layers: dict[str, _Layer] = {}
        self._percent = 0

    def feed(self, line: Mapping[str, Any]) -> PullProgress:
        """One line: `{"id": ..., "status": ..., "progressDetail": {"current": ..., "total": ...}}`."""
        layer_id, status = str(line.get("id", "")), str(line.get("status", ""))
        detail = line.get("progressDetail") or {}
        known = layer_id in self._layers
        if known or status in _WAITING or status in _DONE or status in ("Downloading", "Pushing"):
            layer = self._layers.setdefault(layer_id, _Layer())
            self._advance(layer, status, int(detail.get("current") or 0), int(detail.get("total") or 0))
        return self._whole()

    def done(self) -> PullProgress:
        """The last word after success."""
        total = sum(layer.total_bytes for layer in self._layers.values())
        self._percent = 100
        return PullProgress("DONE", total, total, 100)

    def _advance(self, layer: _Layer, status: str, current: int, total: int) -> None:
        if status in ("Downloading", "Pushing"):
            layer.total_bytes = max(layer.total_bytes, total)
            layer.current_bytes = min(current, layer.total_bytes) if layer.total_bytes else current
            full = _TRANSFER_SHARE if status == "Downloading" else 1.0
            layer.share = max(layer.share, full * current / total if total else 0.0)
        elif status in _TRANSFERRED:
            layer.current_bytes = layer.total_bytes
            layer.share = max(layer.share, _TRANSFER_SHARE)
        elif status == "Extracting":
            layer.unpacking = True
            layer.current_bytes = layer.total_bytes
            layer.share = max(
                layer.share, _TRANSFER_SHARE + (1 - _TRANSFER_SHARE) * (current / total if total else 0.0)
            )
        elif status in _DONE:
            layer.current_bytes = layer.total_bytes
            layer.unpacking = False
            layer.share = 1.0

    def _whole(self) -> PullProgress:
        layers = list(self._layers.values())
        if not layers:
            return PullProgress("RESOLVING", percent=self._percent)
        sizes = [layer.total_bytes for layer in layers if layer.total_bytes]
        average = sum(sizes) / len(sizes) if sizes else 1.0
        weights = [layer.total_bytes or average for layer in layers]
        share = sum(w * min(layer.share, 1.0) for w, layer in zip(weights, layers, strict=True)) / sum(weights)
        # 100 is said by `done` alone: the engine still has to register the image.
        self._percent = max(self._percent, min(99, int(share * 100)))
        transferring = any(layer.share < _TRANSFER_SHARE for layer in layers)
        phase = "EXTRACTING" if not transferring and any(layer.unpacking for layer in layers) else self._transfer_phase
        return PullProgress(
            phase,
            sum(layer.current_bytes for layer in layers),
            sum(layer.total_bytes for layer in layers),
            self._percent,
        )
