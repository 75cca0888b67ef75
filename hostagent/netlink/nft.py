"""nftables through libnftables (Debian package libnftables1), called in this process: 0.3 ms a batch where the `nft`
program takes 5.

A context's netlink socket belongs to the namespace of the thread that made it, so contexts are made inside and used
anywhere. A batch is one transaction: all or nothing, and a refused batch leaves the old rules intact. The library
keeps global state, hence one lock around every call; calls are short.
"""

import ctypes
import threading

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
        with _lock:
            if self._context is not None:
                self._library.nft_ctx_free(self._context)
                self._context = None

    def __enter__(self) -> "Nft":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
