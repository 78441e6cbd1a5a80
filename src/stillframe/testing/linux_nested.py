"""Disks with a little Linux that lies in LVM, LUKS or RAID 1, made and read without the device mapper.

Answers: "what becomes of a Linux whose root is not a partition?" The disk is that of ``linux_disks`` with another third
partition; groups are made by LVM, encrypted by cryptsetup, members of an array built from md's specification. What is
inside is brought out for a test by the same tools, never by ours.
"""

import gzip
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from stillframe.extents import Extent
from stillframe.testing.linux_disks import KERNEL, copy_programs
from stillframe.testing.tools import run_tool, unmount
from stillframe.testing.volumes_luks import HEAD_SIZE, decrypt2, encrypt2
from stillframe.testing.volumes_lvm import GROUP, LvmTools, lvm_on
from stillframe.testing.volumes_raid import MemberPlan, build_member

MIB: Final = 1 << 20
Stack = Literal["lvm", "luks", "lvm-luks", "lvm-raid", "luks-lvm"]
"""What the root lies in, the uppermost first."""
TARGET: Final = "cellar"
"""Its name in ``crypttab``."""
_ROOT: Final = 40 * MIB
_SWAP: Final = 8 * MIB
_ESP: Final = Extent(0, 36 * MIB)
_BOOT: Final = Extent(0, 16 * MIB)
_PROGRAMS: Final = (
    "/bin/sh", "/usr/bin/env", "/bin/cat", "/bin/gzip", "/bin/ls", "/bin/mkdir", "/bin/cp", "/bin/rm", "/usr/bin/cpio",
    "/usr/bin/find",
)  # fmt: skip
_DRACUT: Final = """#!/bin/sh
# dracut --force --no-hostonly --add MODULES --kernel-cmdline WORDS IMAGE VERSION
set -e
mkdir -p /run/e/sbin /run/e/etc
cp /usr/sbin/lvm /usr/sbin/mdadm /usr/sbin/cryptsetup /run/e/sbin/
echo "$4 | $6" > /run/e/etc/told
cd /run/e
find . | cpio -o -H newc --quiet | gzip > "$7"
rm -r /run/e
"""
_MAKER: Final = """#!/bin/sh
# update-initramfs -u -k VERSION: as Debian's hooks decide where no root is on a device mapper
set -e
case "$(ls /dev)" in *vda*|*sda*) echo 'saw the disks of the machine' >&2; exit 4;; esac
mkdir -p /run/e/sbin /run/e/cryptroot /run/e/conf /run/e/lib/modules
[ ! -e /usr/sbin/lvm ] || cp /usr/sbin/lvm /run/e/sbin/
[ ! -e /usr/sbin/mdadm ] || cp /usr/sbin/mdadm /run/e/sbin/
[ ! -e /usr/sbin/cryptsetup ] || cp /usr/sbin/cryptsetup /run/e/sbin/
while read -r name source key options; do
  case ",$options," in *,initramfs,*)
    case $source in
      UUID=*) device=/dev/disk/by-uuid/${source#UUID=};;
      *) device=$source;;
    esac
    [ -e "$device" ] || { echo "no $device here" >&2; exit 5; }
    echo "$name $source $key $options" >> /run/e/cryptroot/crypttab;;
  esac
done < /etc/crypttab
[ -e /run/e/cryptroot/crypttab ] || : > /run/e/cryptroot/crypttab
cat /etc/initramfs-tools/conf.d/* > /run/e/conf/settings
cd /run/e
find . | cpio -o -H newc --quiet | gzip > "/boot/initrd.img-$3"
rm -r /run/e
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedLinux:
    """A disk, where on it the partitions are, and the ids on it, in the spellings of their tools."""

    path: Path
    stack: Stack
    places: dict[int, Extent]
    ids: dict[str, str]


def make_nested_linux(
    path: Path, stack: Stack, *, without: str = "", waits: bool = False, dracut: bool = False
) -> NestedLinux:
    """ESP, ``/boot`` (ext4), and what the root lies in; of a RAID 1 both members.

    Args:
        path: The disk.
        stack: What the root lies in.
        without: A file of the root that is not there.
        waits: Whether ``update-initramfs`` only waits, in place of doing its work.
        dracut: Whether a script in place of ``dracut`` makes the initramfs; it notes what it was told.
    """
    folder = path.with_name(f"{path.name}.parts")
    folder.mkdir()
    ids = {name: str(uuid.uuid4()) for name in ("/", "/boot", "luks", "swap")}
    root, boot, esp = folder / "root", folder / "boot", folder / "esp"
    for file, size in ((root, _ROOT), (boot, _BOOT.size), (esp, _ESP.size)):
        file.touch()
        os.truncate(file, size)
    run_tool("mkfs.ext4", "-q", "-F", "-U", ids["/"], str(root))
    run_tool("mkfs.ext4", "-q", "-F", "-U", ids["/boot"], str(boot))
    run_tool("mkfs.fat", "-F32", "-s1", str(esp))
    with _mounted(root, folder / "place") as place:
        _fill_root(place, stack, ids)
        if without:
            (place / without).unlink()
        if dracut:
            (place / "usr/sbin/update-initramfs").unlink()
            (place / "usr/bin/dracut").write_text(_DRACUT)
            (place / "usr/bin/dracut").chmod(0o755)
        if waits:
            (place / "usr/sbin/update-initramfs").write_text("#!/bin/sh\nread -r _ < /dev/zero\n")
    content = _wrap(folder, root, stack, ids)
    with _mounted(boot, folder / "place") as place:
        _fill_boot(place, stack, ids)
    contents = {1: esp, 2: boot, 3: content} | ({4: folder / "member1"} if stack == "lvm-raid" else {})
    places = _lay(path, contents)
    shutil.rmtree(folder)
    return NestedLinux(path=path, stack=stack, places=places, ids=ids)


@contextmanager
def mounted_nested(disk: NestedLinux, path: Path, work: Path) -> Iterator[Path]:
    """The root of a disk with its ``/boot``, brought out of what it lies in; what is changed is lost.

    Args:
        disk: How it was made.
        path: It, or what it was restored to.
        work: An empty folder: then ``root`` and ``boot`` are in it, ``outer`` is what is in partition 3, ``volume`` the
            logical volume that the root lies in.
    """
    root, boot = _bring_out(disk, path, work), cut(path, disk.places[2], work / "boot")
    run_tool("e2fsck", "-fn", str(root))
    with _mounted(root, work / "place") as place, _mounted(boot, place / "boot"):
        yield place


def _bring_out(disk: NestedLinux, path: Path, work: Path) -> Path:
    outer = cut(path, disk.places[3], work / "outer")
    if disk.stack == "luks":
        return decrypt2(outer, work / "root", _ROOT)
    if disk.stack == "lvm-luks":
        decrypt2(outer, work / "pv", _pv_size(disk.stack))
    with group_of(disk, work) as lvm:
        found = lvm.read_volume("root", work / "volume")
    return decrypt2(found, work / "root", _ROOT) if disk.stack == "luks-lvm" else found.rename(work / "root")


@contextmanager
def group_of(disk: NestedLinux, work: Path) -> Iterator[LvmTools]:
    """LVM's tools on the physical volume of a disk whose root was brought out into this folder."""
    start = MIB if disk.stack == "lvm-raid" else 0
    place = Extent(start, start + _pv_size(disk.stack))
    with lvm_on((work / ("pv" if disk.stack == "lvm-luks" else "outer"), place)) as lvm:
        yield lvm


def cut(path: Path, place: Extent, target: Path) -> Path:
    """A range of a disk, as a file."""
    with path.open("rb") as reading, target.open("wb") as writing:
        reading.seek(place.start)
        writing.write(reading.read(place.size))
    return target


def _pv_size(stack: Stack) -> int:
    return _root_size(stack) + _SWAP + 2 * MIB


def _root_size(stack: Stack) -> int:
    return _ROOT + (HEAD_SIZE if stack == "luks-lvm" else 0)


def _wrap(folder: Path, root: Path, stack: Stack, ids: dict[str, str]) -> Path:
    """Put the root into what it lies in; the contents of the third partition."""
    if stack == "luks":
        return _encrypt(root, folder / "sealed", ids)
    inner = _encrypt(root, folder / "sealed-root", ids) if stack == "luks-lvm" else root
    group = folder / "pv"
    group.touch()
    os.truncate(group, _pv_size(stack))
    swap = folder / "swap"
    swap.touch()
    os.truncate(swap, _SWAP)
    run_tool("mkswap", "-q", "-U", ids["swap"], str(swap))
    with lvm_on((group, Extent(0, _pv_size(stack)))) as lvm:
        lvm.make_group()
        for name, contents in (("swap", swap), ("root", inner)):
            lvm.make_volume(name, "-L", f"{contents.stat().st_size}b", lvm.devices[0])
            lvm.write_volume(name, contents)
        ids["group"], ids["pv"] = lvm.ask("vgs", "vg_uuid")[0][0], lvm.ask("pvs", "pv_uuid")[0][0]
        ids["lv"] = lvm.ask("lvs", "lv_uuid", f"{GROUP}/root")[0][0]
    if stack == "lvm-luks":
        return _encrypt(group, folder / "sealed", ids)
    if stack == "lvm-raid":
        plans = [MemberPlan(number=number) for number in (0, 1)]
        for number, plan in enumerate(plans):
            (folder / f"member{number}").write_bytes(build_member(group.read_bytes(), plan))
        ids["array"] = plans[0].array.hex
        return folder / "member0"
    return group


def _encrypt(plain: Path, target: Path, ids: dict[str, str]) -> Path:
    encrypt2(plain, target)
    run_tool("cryptsetup", "luksUUID", "-q", "--uuid", ids["luks"], str(target))
    return target


def _lay(path: Path, contents: dict[int, Path]) -> dict[int, Extent]:
    """A disk with these partitions; where they are."""
    places, start = dict[int, Extent](), MIB
    for number, file in contents.items():
        size = -(-file.stat().st_size // MIB) * MIB
        places[number] = Extent(start, start + size)
        start += size
    path.touch()
    os.truncate(path, start + MIB)
    types = {1: "U", 2: "L"}
    lines = [f"start={place.start // 512}, size={place.size // 512}, type={types.get(number, 'L')}"
             for number, place in places.items()]  # fmt: skip
    script = path.with_suffix(".sfdisk")
    script.write_text("label: gpt\n" + "\n".join(lines) + "\n")
    run_tool("sh", "-c", f"sfdisk -q '{path}' < '{script}'")
    script.unlink()
    with path.open("r+b") as disk:
        for number, file in contents.items():
            disk.seek(places[number].start)
            disk.write(file.read_bytes())
    return places


@contextmanager
def _mounted(file: Path, place: Path) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    run_tool("mount", "-o", "loop", str(file), str(place))
    try:
        yield place
    finally:
        unmount(place)


def _fill_root(root: Path, stack: Stack, ids: dict[str, str]) -> None:
    is_mapped = stack in ("luks", "luks-lvm")
    device = f"/dev/mapper/{TARGET}" if is_mapped else f"/dev/mapper/{GROUP}-root"
    swap = "" if stack == "luks" else f"/dev/{GROUP}/swap none swap sw 0 0\n"
    source = f"/dev/{GROUP}/root" if stack == "luks-lvm" else f"UUID={ids['luks']}"
    texts = {
        "etc/os-release": 'PRETTY_NAME="Little Linux 2"\nID=little\n',
        "etc/fstab": f"{device} / ext4 defaults 0 1\nUUID={ids['/boot']} /boot ext4 defaults 0 2\n{swap}",
        "etc/crypttab": f"# opened early\n{TARGET} {source} none luks,discard\n" if "luks" in stack else "",
        "etc/initramfs-tools/conf.d/resume": "RESUME=none\n",
        "etc/network/interfaces": "auto enp3s0\niface enp3s0 inet dhcp\n",
        "home/letter": f"the id {ids['/']} in a letter stays\n",
        "usr/sbin/update-initramfs": _MAKER,
        **{f"usr/sbin/{name}": "program\n" for name in ("lvm", "mdadm", "cryptsetup")},
        f"lib/modules/{KERNEL}/modules.builtin": "".join(
            f"kernel/drivers/md/{name}.ko\n" for name in ("dm-mod", "dm-crypt", "raid1")
        ),
        **{f"{name}/.keep": "" for name in ("proc", "sys", "dev", "run", "var", "boot")},
    }  # fmt: skip
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "usr/sbin/update-initramfs").chmod(0o755)
    copy_programs(root, _PROGRAMS)


def _fill_boot(boot: Path, stack: Stack, ids: dict[str, str]) -> None:
    lines = [f"search --fs-uuid --set=root {ids['/boot']}"]
    lines += [f"set root='lvmid/{ids['group']}/{ids['lv']}'"] if "group" in ids else []
    lines += [f"cryptomount -u {ids['luks'].replace('-', '')}"] if "luks" in stack else []
    lines += [f"set root='mduuid/{ids['array']}'"] if "array" in ids else []
    (boot / "grub").mkdir()
    (boot / "grub/grub.cfg").write_text("\n".join(lines) + "\n")
    (boot / f"vmlinuz-{KERNEL}").write_text("kernel\n" * 100)
    named = f"{TARGET} UUID={ids['luks']} none luks" if "luks" in stack else ""
    (boot / f"initrd.img-{KERNEL}").write_bytes(gzip.compress(_early(named)))


def _early(crypttab: str) -> bytes:
    """A cpio archive with one file, by cpio."""
    return run_tool(
        "sh", "-c", f"d=$(mktemp -d) && cd $d && echo '{crypttab}' > crypttab && echo crypttab | cpio -o -H newc "
        "--quiet && rm -r $d",
    ).encode()  # fmt: skip
