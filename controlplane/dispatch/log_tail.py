"""The last lines of an instance, from its host's agent: for messages that say why something failed. Never waits for long."""

import asyncio
import logging
from collections.abc import Sequence

from controlplane.dispatch.streams import StreamBroker
from controlplane.domain.instances import Instance
from moorage.errors import MoorageError
from moorage.v1 import instance_streams_pb2

log = logging.getLogger(__name__)

TAIL_LINES = 5
LONGEST_LINE = 200  # characters
WAIT_SECONDS = 2.0


class LogTails:
    """Reads tails through the streams that `logs` uses."""

    def __init__(self, broker: StreamBroker) -> None:
        self._broker = broker

    async def __call__(self, instance: Instance) -> Sequence[str]:
        """At most TAIL_LINES lines; none when it has no container, or its host does not answer in WAIT_SECONDS."""
        if not instance.observed.container_id:
            return ()
        request = instance_streams_pb2.StreamLogsRequest(name=instance.name, tail=TAIL_LINES)
        stream_id, received = "", bytearray()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                stream_id, stream = await self._broker.open(instance.host_uid, instance.uid, "logs", request)
                async for message in stream.messages():
                    received += message.data
        except (MoorageError, TimeoutError) as error:
            log.info("no last lines of %s: %s", instance.name, error)
        finally:
            if stream_id:
                self._broker.close(stream_id)
        lines = received.decode(errors="replace").splitlines()[-TAIL_LINES:]
        return [line[:LONGEST_LINE] for line in lines]
