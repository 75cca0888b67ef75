"""The channel under the stubs: what every call carries, how long it may take, and whose errors it raises.

Owns credentials and trace ids, the time limit of calls that are not streams, and the way from gRPC's errors to
`MoorageError`s. It is a channel of ours and no interceptors, for those need a class per kind of call. Invariants: no gRPC
error leaves a call; where grpc.aio lost the reason of a refusal, asking for it again does no harm.
"""

import secrets
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from functools import partial
from typing import Any

import grpc

from moorage.errors import MoorageError, Unavailable
from moorage.status import error_from_rpc

TRACE_KEY = "x-trace-id"
_LOST = "Internal error from Core"  # grpc.aio's words
_ASK_TIMES = 5


class CallMetadata:
    """What every call carries."""

    def __init__(self, api_key: str, trace_id: str) -> None:
        self._key = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        self._trace_id = trace_id

    def make(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """A trace id and the metadata with it."""
        trace_id = self._trace_id or secrets.token_hex(16)
        return trace_id, (*self._key, (TRACE_KEY, trace_id))


class CallChannel:
    """A channel whose calls carry our metadata and raise our errors; stubs need no more of one than these four methods."""

    def __init__(self, channel: grpc.aio.Channel, address: str, metadata: CallMetadata, timeout_seconds: float) -> None:
        self._channel = channel
        self._address = address
        self._metadata = metadata
        self._timeout_seconds = timeout_seconds

    def unary_unary(self, *args: Any, **kwargs: Any) -> Callable[..., "_Call"]:
        inner = self._channel.unary_unary(*args, **kwargs)
        return partial(self._start, inner, self._timeout_seconds)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Callable[..., "_Call"]:
        return partial(self._start, self._channel.unary_stream(*args, **kwargs), None)

    def stream_unary(self, path: str, *args: Any, **kwargs: Any) -> Callable[..., "_Call"]:
        return partial(self._start, self._channel.stream_unary(path, *args, **kwargs), None, sends_to=path)

    def stream_stream(self, path: str, *args: Any, **kwargs: Any) -> Callable[..., "_Call"]:
        return partial(self._start, self._channel.stream_stream(path, *args, **kwargs), None, sends_to=path)

    def _start(
        self,
        inner: Callable[..., Any],
        default_timeout: float | None,
        request: Any = None,
        *,
        sends_to: str = "",
        **kwargs: Any,
    ) -> "_Call":
        trace_id, metadata = self._metadata.make()
        kwargs["metadata"] = (*metadata, *(kwargs.get("metadata") or ()))
        kwargs.setdefault("timeout", default_timeout)
        translate = partial(error_from_rpc, address=self._address, trace_id=trace_id)
        if not sends_to:
            return _Call(inner(request, **kwargs), translate)
        again = self._get_instance if sends_to.endswith("/ExecInstance") else inner
        sent = _Sent(request, partial(again, **kwargs) if again is inner else partial(again, metadata))
        return _Call(inner(request if request is None else sent, **kwargs), translate, sent)

    def _get_instance(self, metadata: tuple[tuple[str, str], ...], messages: Iterable[Any]) -> Any:
        """Refused for the same reasons as a command in the instance, which must not be run twice."""
        from moorage.v1 import instances_pb2

        get = self._channel.unary_unary(
            "/moorage.v1.InstanceService/GetInstance",
            request_serializer=instances_pb2.GetInstanceRequest.SerializeToString,
            response_deserializer=instances_pb2.Instance.FromString,
        )
        name = next(iter(messages)).start.name
        return get(instances_pb2.GetInstanceRequest(name=name), metadata=metadata, timeout=self._timeout_seconds)


class _Sent:
    """The messages of a call that sends a stream; remembers the first, which says what is asked for.

    grpc.aio loses the reason of a refusal that arrives while it still writes, and tells an error of its own. Then the call
    is made once more with the first message only, which is refused again, and does no harm where it is not.
    """

    def __init__(self, messages: Any, again: Callable[[Iterable[Any]], Any]) -> None:
        self._messages = messages
        self._again = again
        self.first: Any = None

    async def __aiter__(self) -> AsyncIterator[Any]:
        if hasattr(self._messages, "__aiter__"):
            async for message in self._messages:
                self.note(message)
                yield message
        else:
            for message in self._messages:
                self.note(message)
                yield message

    def note(self, message: Any) -> None:
        """A message is sent."""
        if self.first is None:
            self.first = message

    async def reason(self, lost: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """What the call was refused with; `lost` itself when it cannot be found out."""
        for _ in range(_ASK_TIMES if self.first is not None else 0):
            call = self._again([self.first])
            try:
                if hasattr(call, "__aiter__"):
                    await call.read()
                    call.cancel()
                else:
                    await call
            except grpc.aio.AioRpcError as exc:
                if exc.details() != _LOST:
                    return exc
            else:
                break
        return lost


class _Call:
    """A call of any kind, with errors of ours. Everything else is the inner call's."""

    def __init__(
        self, inner: Any, translate: Callable[[grpc.aio.AioRpcError], MoorageError], sent: _Sent | None = None
    ) -> None:
        self._inner = inner
        self._translate = translate
        self._sent = sent
        self._is_answered = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            return (yield from self._inner.__await__())
        except grpc.aio.AioRpcError as exc:
            raise (yield from self._error(exc).__await__()) from exc

    async def _error(self, exc: grpc.aio.AioRpcError) -> MoorageError:
        if exc.details() == _LOST and self._sent is not None and not self._is_answered:
            exc = await self._sent.reason(exc)
        if exc.details() == _LOST:
            return Unavailable(
                "the control plane ended the call while it was still sent to, and its reason was lost; try again",
                reason="REASON_LOST",
            )
        return self._translate(exc)

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for response in self._inner:
                self._is_answered = True
                yield response
        except grpc.aio.AioRpcError as exc:
            raise await self._error(exc) from exc
        finally:
            self._inner.cancel()  # a consumer that stops early must not leave the stream open; a no-op on an ended call

    async def read(self) -> Any:
        try:
            response = await self._inner.read()
            self._is_answered = self._is_answered or response is not grpc.aio.EOF
            return response
        except grpc.aio.AioRpcError as exc:
            raise await self._error(exc) from exc

    async def write(self, request: Any) -> None:
        if self._sent is not None:
            self._sent.note(request)
        try:
            await self._inner.write(request)
        except grpc.aio.AioRpcError as exc:
            raise await self._error(exc) from exc

    async def done_writing(self) -> None:
        try:
            await self._inner.done_writing()
        except grpc.aio.AioRpcError as exc:
            raise await self._error(exc) from exc
