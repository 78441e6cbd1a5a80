"""How much hypothesis tries: the same examples in each run of ``make test``, others in each run of ``make test-all``.

A failure of ``make test`` must come back when it is run again, and must be told soon: so its examples are chosen by the
test's own code and are not made smaller, which may take hypothesis five minutes. To make them small, run that one test
with ``--hypothesis-profile=deep``. A busy machine is no mistake, so an example may take long; but it must end.
"""

from datetime import timedelta

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
