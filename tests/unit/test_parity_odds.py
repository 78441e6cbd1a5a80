"""How likely it is that scattered damage comes back: by the binomial distribution, and by trying it.

The promise is P > 0.999 for a full pack (64 MiB) of which 0.5 % of all blocks are damaged, whether its sidecar stays
whole or is damaged as much. What is tried here is only who is hit; that so many blocks do come back is the law in
``test_parity_laws``.
"""

from math import comb

import numpy as np
import pytest

from stillframe.repo.parity.records import BLOCK, Geometry

SHARE = 0.005
PACK = Geometry(64 << 20)


def binomial(n: int, p: float) -> list[float]:
    return [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


def stripe_fails(geometry: Geometry, share: float, *, sidecar: bool) -> float:
    """Probability that more blocks of a stripe are damaged than parity blocks of it are left."""
    blocks = binomial(geometry.positions, share)
    touched = (geometry.record_size - 1) // BLOCK + 1 + (geometry.record_size - 1) % BLOCK / BLOCK  # blocks of a record
    records = binomial(geometry.rows, 1 - (1 - share) ** touched if sidecar else 0.0)
    healed = sum(
        p * q for lost, p in enumerate(blocks) for gone, q in enumerate(records) if lost + gone <= geometry.rows
    )
    return 1 - healed


def object_heals(geometry: Geometry, share: float, *, sidecar: bool) -> float:
    return float((1 - stripe_fails(geometry, share, sidecar=sidecar)) ** geometry.stripes)


@pytest.mark.parametrize("sidecar", [False, True])
@pytest.mark.parametrize("size", [1 << 20, 16 << 20, 64 << 20])
def test_half_a_percent_comes_back_more_than_999_times_in_1000(size: int, *, sidecar: bool) -> None:
    assert object_heals(Geometry(size), SHARE, sidecar=sidecar) > 0.999


def test_three_percent_scattered_do_not() -> None:
    """Nobody should read more into the promise than there is: what is scattered over all stripes needs luck."""
    assert object_heals(PACK, 0.03, sidecar=False) < 0.1


def failures(trials: int, share: float) -> int:
    """How many of so many packs, each with this share of its blocks damaged anywhere, do not come back."""
    chance, failed = np.random.default_rng(1), 0
    count = int(PACK.blocks * share)
    for _ in range(trials):
        hit = chance.choice(PACK.blocks, count, replace=False) % PACK.stripes
        failed += bool(np.bincount(hit).max() > PACK.rows)
    return failed


def test_trying_it_agrees() -> None:
    """3,000 packs at 0.5 % and 1 %: within four standard deviations of what was computed."""
    for share in (SHARE, 0.01):
        trials, expected = 3000, 3000 * (1 - object_heals(PACK, share, sidecar=False))
        assert abs(failures(trials, share) - expected) <= 4 * max(1.0, expected) ** 0.5


@pytest.mark.parametrize("size", [1 << 20, 16 << 20, 64 << 20, 127 << 20])
def test_a_burst_of_three_percent_meets_no_stripe_too_often(size: int) -> None:
    """Wherever it begins: no probability, a law."""
    geometry = Geometry(size)
    longest = int(size * 0.03) // BLOCK + 2  # blocks that so many bytes can touch
    assert longest <= geometry.rows * geometry.stripes
