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
    """A context in the calling thread's network namespace."""

    def __init__(self) -> None:
        with _lock:
            self._library = _load()
            self._context: int | None = self._library.nft_ctx_new(0)
            self._library.nft_ctx_buffer_output(self._context)
            self._library.nft_ctx_buffer_error(self._context)

    def run(self, batch: str) -> str:
        """Run one batch of nft commands as one transaction; what it printed.

        Raises: Internal: it was refused; nothing of it was done.
        """
        with _lock:
            code = self._library.nft_run_cmd_from_buffer(self._context, batch.encode())
            said: bytes = self._library.nft_ctx_get_error_buffer(self._context)
            out: bytes = self._library.nft_ctx_get_output_buffer(self._context)
        if code != 0:
            raise Internal(f"nftables refused a batch: {said.decode(errors='replace').strip()}", reason="NFT_REFUSED")
        return out.decode(errors="replace")

    def accepts(self, batch: str) -> bool:
        """Whether the kernel and library take the batch, which is then in force."""
        try:
            self.run(batch)
        except Internal:
            return False
        return True

    def close(self) -> None:
        """Free the context."""
        context, self._context = self._context, None
        if context is not None:  # without the lock: this one waits for the kernel
            self._library.nft_ctx_free(context)

    def __enter__(self) -> "Nft":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class NftCache:
    """Contexts kept open, one per namespace, because closing one waits some ten milliseconds for the kernel to free
    rules.

    An open context keeps its namespace alive, so whoever removes a namespace calls `drop`, which closes in the
    background.
    """

    def __init__(self) -> None:
        self._contexts: dict[str, Nft] = {}
        self._guard = threading.Lock()
        self._closing: list[threading.Thread] = []

    def get(self, name: str, enter: Callable[[], contextlib.AbstractContextManager[None]]) -> Nft:
        """The context called `name`; `enter` visits its namespace, to make it there if need be."""
        with self._guard:
            found = self._contexts.get(name)
            if found is None:
                with enter():
                    found = self._contexts[name] = Nft()
            return found

    def drop(self, name: str) -> None:
        """Close the context called `name`, without waiting."""
        with self._guard:
            found = self._contexts.pop(name, None)
            self._closing = [thread for thread in self._closing if thread.is_alive()]
            if found is not None:
                thread = threading.Thread(target=found.close, name=f"nft-close-{name}")
                self._closing.append(thread)
                thread.start()

    def close(self) -> None:
        """Close all, and wait until that is done."""
        for name in list(self._contexts):
            self.drop(name)
        for thread in self._closing:
            thread.join()
