"""How much hypothesis tries: the same examples in each run of ``make test``, others in each run of ``make test-all``.

A failure of ``make test`` must come back when it is run again, and must be told soon: so its examples are chosen by the
test's own code and are not made smaller, which may take hypothesis five minutes. To make them small, run that one test
with ``--hypothesis-profile=deep``. A busy machine is no mistake, so an example may take long; but it must end.
"""

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, Phase, settings

PATIENT = (HealthCheck.too_slow,)
LIMIT = timedelta(seconds=20)  # as in tools/fuzz.py

settings.register_profile(
    "test",
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    print_blob=True,
    suppress_health_check=PATIENT,
    deadline=LIMIT,
)
settings.register_profile("deep", deadline=LIMIT, print_blob=True, suppress_health_check=PATIENT)
settings.load_profile("test")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """``variants(n)``: of the variants of a test that are not slow, only n are not, which lie evenly among them."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("variants") is not None and item.get_closest_marker("slow") is None:
            groups.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for group in groups.values():
        mark = group[0].get_closest_marker("variants")
        assert mark is not None
        (count,) = mark.args
        group.sort(key=lambda item: item.nodeid)  # whatever order they are to be run in
        chosen = {round(number * (len(group) - 1) / max(count - 1, 1)) for number in range(count)}
        for number, item in enumerate(group):
            if number not in chosen:
                item.add_marker(pytest.mark.slow)
