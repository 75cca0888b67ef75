"""How much of this agent's time one instance may take: so many questions in each tenth of a second, over all ways in.

Whoever asks faster waits, with the kernel's buffers as the queue: what is not read costs nothing.
"""

from collections.abc import Callable

WINDOW_SECONDS = 0.1
QUESTIONS_A_WINDOW = 200


class Ration:
    """One instance's.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = 0.0
        self._taken = 0

    def wait_seconds(self) -> float:
        """0: one more question may be answered now, and is counted; else the time after which to ask again."""
        now = self._clock()
        if now - self._since >= WINDOW_SECONDS:
            self._since, self._taken = now, 0
        if self._taken < QUESTIONS_A_WINDOW:
            self._taken += 1
            return 0.0
        return max(self._since + WINDOW_SECONDS - now, 0.001)
