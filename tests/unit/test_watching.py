"""When what a machine shows settles whether it boots."""

from dataclasses import replace

import numpy as np

from stillframe.host.pictures import Picture
from stillframe.jobs.watching import FAILED_STILL_S, STUCK_S, Look, Watch

BLACK = Picture(width=80, height=40, pixels=bytes(80 * 40 * 3))
FIRST = Look(seconds=0, serial="", firmware="", text="", picture=BLACK, bytes_read=0, resets=0)


def blue(*, share: float) -> Picture:
    pixels = np.full((40 * 80, 3), 255, np.uint8)
    pixels[: int(len(pixels) * share)] = (0, 120, 215)
    return Picture(width=80, height=40, pixels=pixels.tobytes())


def test_a_login_prompt_settles_it_at_once() -> None:
    sighting = Watch().take(replace(FIRST, serial="debian login: "))
    assert sighting is not None
    assert sighting.outcome == "booted"


def test_a_failure_counts_only_when_nothing_follows() -> None:
    watch = Watch()
    error = replace(FIRST, text="error: no such device: 12.")
    assert watch.take(error) is None
    assert watch.take(replace(error, seconds=FAILED_STILL_S - 1)) is None
    assert watch.take(replace(error, seconds=FAILED_STILL_S, bytes_read=4096)) is None  # it reads on
    sighting = watch.take(replace(error, seconds=2 * FAILED_STILL_S, bytes_read=4096))
    assert sighting is not None
    assert sighting.outcome == "failed"


def test_an_error_that_was_survived_counts_no_more() -> None:
    watch = Watch()
    error = replace(FIRST, serial="error: file `/grub/locale/de.mo' not found.")
    assert watch.take(error) is None
    assert watch.take(replace(error, seconds=20, bytes_read=50 << 20)) is None  # kernel and root were read
    assert watch.take(replace(error, seconds=60, bytes_read=50 << 20)) is None
    assert watch.still_s == 40


def test_boot_code_that_says_and_reads_nothing_more_is_stuck() -> None:
    watch = Watch()
    look = replace(FIRST, text="Booting from Hard Disk...")
    assert watch.take(look) is None
    assert watch.take(replace(look, seconds=STUCK_S - 1)) is None
    sighting = watch.take(replace(look, seconds=STUCK_S))
    assert sighting is not None
    assert "stuck" in sighting.words


def test_a_machine_that_resets_again_and_again_has_failed() -> None:
    watch = Watch()
    assert watch.take(replace(FIRST, resets=2)) is None  # some systems restart once when they meet a new computer
    sighting = watch.take(replace(FIRST, resets=3))
    assert sighting is not None
    assert sighting.outcome == "failed"


def test_the_blue_of_windows_counts_when_it_fills_the_screen_and_stays() -> None:
    for share, is_failure in ((0.9, True), (0.5, False)):
        watch = Watch()
        assert watch.take(replace(FIRST, picture=blue(share=share))) is None
        sighting = watch.take(replace(FIRST, picture=blue(share=share), seconds=STUCK_S))
        assert (sighting is not None) == is_failure


def test_a_cursor_that_blinks_is_no_movement() -> None:
    pixels = bytearray(640 * 400 * 3)
    one = Picture(width=640, height=400, pixels=bytes(pixels))
    pixels[3000:3024] = b"\xff" * 24
    cursor = Picture(width=640, height=400, pixels=bytes(pixels))
    watch = Watch()
    watch.take(replace(FIRST, picture=one))
    watch.take(replace(FIRST, picture=cursor, seconds=9))
    assert watch.still_s == 9
    watch.take(replace(FIRST, picture=Picture(width=640, height=400, pixels=b"\x80" * 640 * 400 * 3), seconds=10))
    assert watch.still_s == 0
