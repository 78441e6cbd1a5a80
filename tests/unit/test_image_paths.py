"""What a place inside an image is called."""

import pytest

from stillframe.errors import UsageError
from stillframe.jobs.image_paths import ImagePath, parse_file_path, parse_image_path


@pytest.mark.parametrize(
    ("text", "image", "partition", "names"),
    [
        ("latest", "latest", None, ()),
        ("3fa9c0de", "3fa9c0de", None, ()),
        ("latest:office", "latest:office", None, ()),
        ("latest:3", "latest", 3, ()),
        ("latest:3/", "latest", 3, ()),
        ("latest:3/etc//hosts/", "latest", 3, (b"etc", b"hosts")),
        ("latest:office:3/etc", "latest:office", 3, (b"etc",)),
        ("latest:2024", "latest", 2024, ()),
        ("latest:2024:", "latest:2024", None, ()),
        ("latest:2024:3/a", "latest:2024", 3, (b"a",)),
        ("latest:2nd disk", "latest:2nd disk", None, ()),
        ("latest:3/a:5/b", "latest", 3, (b"a:5", b"b")),
        ("latest:3/caf\\xe9", "latest", 3, (b"caf\xe9",)),
        ("latest:3/a\nb", "latest", 3, (b"a\nb",)),
    ],
)
def test_image_partition_and_path_are_told_apart(
    text: str, image: str, partition: int | None, names: tuple[bytes, ...]
) -> None:
    assert parse_image_path(text) == ImagePath(image=image, partition=partition, names=names)


@pytest.mark.parametrize("text", ["latest:3/../etc", "latest:3/./a", "", ":"])
def test_what_leads_elsewhere_or_nowhere_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_image_path(text)


@pytest.mark.parametrize(
    ("text", "image", "partition", "volume", "names"),
    [
        ("latest:3@root", "latest", 3, "root", ()),
        ("latest:3@root/etc/hosts", "latest", 3, "root", (b"etc", b"hosts")),
        ("latest:office:3@vm-1.0+x/", "latest:office", 3, "vm-1.0+x", ()),
        ("latest:3@/etc", "latest", 3, "", (b"etc",)),
        ("latest:3@", "latest", 3, "", ()),
        ("latest:3/a@b", "latest", 3, None, (b"a@b",)),
        ("latest:a:3@b:", "latest:a:3@b", None, None, ()),
        ("latest:3@a b", "latest:3@a b", None, None, ()),
    ],
)
def test_a_volume_inside_a_partition_is_named_behind_its_number(
    text: str, image: str, partition: int | None, volume: str | None, names: tuple[bytes, ...]
) -> None:
    assert parse_image_path(text) == ImagePath(image=image, partition=partition, volume=volume, names=names)


def test_a_file_needs_a_partition() -> None:
    assert parse_file_path("latest:1/a").partition == 1
    with pytest.raises(UsageError, match="no partition is named"):
        parse_file_path("latest:office")
