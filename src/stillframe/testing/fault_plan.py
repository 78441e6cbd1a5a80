"""A fault that is planned, and must happen: a plan that never fired tested nothing.

Answers: "is it now?" and, at the end, "did it happen?" What the fault does is the business of the wrapper that asks.
"""

from threading import RLock


class FaultPlan:
    """When a fault happens, and whether it did.

    Args:
        what: The fault in words, for the failure of ``assert_fired``.
        after: How many steps pass before it; ``None``: it never happens, steps are only counted.
        times: How many steps in a row it happens; ``None``: for ever.
    """

    def __init__(self, what: str, *, after: int | None, times: int | None = 1) -> None:
        self.what = what
        self.steps = 0
        self.fired = 0
        self._after = after
        self._times = times
        self._lock = RLock()

    def step(self) -> bool:
        """Count one step; whether the fault happens now."""
        with self._lock:
            passed, self.steps = self.steps, self.steps + 1
            if self._after is None or passed < self._after or self.fired == self._times:
                return False
            self.fired += 1
            return True

    def assert_fired(self) -> None:
        """Fail unless the fault happened, as often as planned."""
        expected = 1 if self._times is None else self._times
        assert self.fired >= expected, (
            f"{self.what}: happened {self.fired} times, planned {expected}; there were {self.steps} steps"
        )
