"""nftables through libnftables (Debian package libnftables1), called in this process: 0.3 ms a batch where the `nft`
program takes 5.

A context's netlink socket belongs to the namespace of the thread that made it, so contexts are made inside and used
anywhere. A batch is one transaction: all or nothing, and a refused batch leaves the old rules intact. The library
keeps global state, hence one lock around every call; calls are short.
"""

import contextlib
import ctypes
import threading
from collections.abc import Callable

from moorage.errors import Internal, NotSupported

_lock = threading.Lock()
_library: ctypes.CDLL | None = None


def _load() -> ctypes.CDLL:
    global _library
    if _library is None:
        try:
            library = ctypes.CDLL("libnftables.so.1")
        except OSError as error:
            raise NotSupported(
                "libnftables is missing on this host; install the package libnftables1", reason="NFTABLES_MISSING"
            ) from error
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        for name in ("nft_ctx_get_error_buffer", "nft_ctx_get_output_buffer"):
            getattr(library, name).restype = ctypes.c_char_p
        for name in (
            "nft_ctx_buffer_output",
            "nft_ctx_buffer_error",
            "nft_ctx_get_error_buffer",
            "nft_ctx_get_output_buffer",
            "nft_ctx_free",
        ):
            getattr(library, name).argtypes = [ctypes.c_void_p]
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        _library = library
    return _library


class Nft:
    """Packet rules of one namespace."""

    def __init__(self, contexts: "NftContexts", name: str, enter: "Enter") -> None:
        self._contexts = contexts
        self._name = name
        self._enter = enter

    def run(self, batch: str) -> str:
        """Run one batch of nft commands as one transaction; what it printed.

        Raises: Internal: it was refused; nothing of it was done.
        """
        return self._contexts.run(self._name, self._enter, batch)

    def accepts(self, batch: str) -> bool:
        """Whether the kernel and library take the batch, which is then in force."""
        try:
            self.run(batch)
        except Internal:
            return False
        return True


Enter = Callable[[], contextlib.AbstractContextManager[None]]


class NftContexts:
    """Library contexts, the most recently used kept open: closing one waits some ten milliseconds for the kernel to
    free rules, and an open one takes a megabyte.

    An open context keeps its namespace alive, so whoever removes a namespace calls `drop`. Closing is done in the
    background.
    """

    def __init__(self, keep: int = 6) -> None:
        self._keep = keep
        self._open: dict[str, int] = {}  # name -> context, least recently used first
        self._closing: list[threading.Thread] = []

    def of(self, name: str, enter: Enter) -> Nft:
        """The rules of the namespace called `name`, which `enter` visits."""
        return Nft(self, name, enter)

    def run(self, name: str, enter: Enter, batch: str) -> str:
        """See `Nft.run`."""
        with _lock:
            library = _load()
            context = self._open.pop(name, None)
            if context is None:
                context = self._new(library, enter)
            self._open[name] = context
            try:
                return _execute(library, context, batch)
            finally:
                while len(self._open) > self._keep:
                    self._close_later(next(iter(self._open)))

    def run_once(self, enter: Enter, batch: str) -> None:
        """Run one batch in a namespace that is not worth a context of its own: nothing is kept of it.

        Raises: Internal: it was refused; nothing of it was done.
        """
        with _lock:
            library = _load()
            context = self._new(library, enter)
            try:
                _execute(library, context, batch)
            finally:
                self._free_later(context)

    def drop(self, name: str) -> None:
        """Close the context of the namespace called `name`, without waiting."""
        with _lock:
            self._close_later(name)

    def close(self) -> None:
        """Close all, and wait until that is done."""
        for name in list(self._open):
            self.drop(name)
        for thread in self._closing:
            thread.join()

    @staticmethod
    def _new(library: ctypes.CDLL, enter: Enter) -> int:
        with enter():
            context: int = library.nft_ctx_new(0)
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        return context

    def _close_later(self, name: str) -> None:
        context = self._open.pop(name, None)
        if context is not None:
            self._free_later(context)

    def _free_later(self, context: int) -> None:
        self._closing = [thread for thread in self._closing if thread.is_alive()]
        thread = threading.Thread(target=_load().nft_ctx_free, args=(context,), name="nft-close")
        self._closing.append(thread)
        thread.start()


def _execute(library: ctypes.CDLL, context: int, batch: str) -> str:
    code = library.nft_run_cmd_from_buffer(context, batch.encode())
    said: bytes = library.nft_ctx_get_error_buffer(context)
    out: bytes = library.nft_ctx_get_output_buffer(context)
    if code != 0:
        raise Internal(f"nftables refused a batch: {said.decode(errors='replace').strip()}", reason="NFT_REFUSED")
    return out.decode(errors="replace")
