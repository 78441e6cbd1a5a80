"""The files of a medium, whether it becomes an ISO, a stick or files for the network.

Answers: "which file of the cache goes where?" And the file system with Stillframe in it, which is made by adding
Stillframe's folder to a copy of the base.

Sources: mksquashfs(1): without ``-noappend`` it adds to a file system; live-boot(7), "live/filesystem.squashfs";
Debian's grub2, debian/build-efi-images: the signed GRUB for CDs looks for ``/.disk/info`` and ``/boot/grub/grub.cfg``.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import stillframe
from stillframe.events import PhaseStarted
from stillframe.rescue.medium.base import Base, Step, read_facts
from stillframe.rescue.medium.cache import keep, made_once
from stillframe.rescue.medium.menu import menu
from stillframe.rescue.medium.own import make_own, make_packages, packages_digest
from stillframe.rescue.medium.settings import Settings

ESP_FILES: Final = ("BOOTX64.EFI", "grubx64.efi", "mmx64.efi")
MEMTEST: Final = ("memtest86+x64.bin", "memtest86+x64.efi")
NETBOOT_FILES: Final = ("vmlinuz", "initrd", "filesystem.squashfs")
"""What starts a computer over the network; they lie in ``live``."""
_FACTS: Final = "ready.json"
_README: Final = """\
This is a Stillframe rescue medium. Start the computer from it: choose it in the boot menu of the computer, which a key
such as F12, F11, F9 or Esc opens right after it is switched on.

Version {version}, Debian's kernel {kernel}. The programs in it and their licences: live/packages.txt and
/usr/share/doc/*/copyright on the running medium.
"""


def make_filesystem(base: Base, settings: Settings, room: str, step: Step) -> str:
    """The file system of the medium: the base, and Stillframe in it.

    Raises:
        MachineRefusal: It could not be made.
    """
    path = os.path.join(room, "filesystem.squashfs")
    shutil.copyfile(_with_packages(base, room, step), path)
    own = make_own(room, settings, step)
    step.events.emit(PhaseStarted(name="Stillframe: into the file system"))
    _add(own, path, step)
    return path


def _with_packages(base: Base, room: str, step: Step) -> str:
    """The base and the Python packages, kept for the next build; one for each base."""
    facts = {"base": base.made, "packages": packages_digest()}
    with made_once(f"ready/{os.path.basename(base.folder)}", check=step.check) as place:
        path = os.path.join(place, "filesystem.squashfs")
        if read_facts(os.path.join(place, _FACTS)) == facts and os.path.exists(path):
            return path
        half = os.path.join(room, "ready")
        os.makedirs(half)
        shutil.copyfile(base.squashfs, os.path.join(half, "filesystem.squashfs"))
        packages = make_packages(room, step)
        step.events.emit(PhaseStarted(name="Stillframe: its packages into the file system"))
        _add(packages, os.path.join(half, "filesystem.squashfs"), step)
        Path(half, _FACTS).write_text(json.dumps(facts))
        keep(half, place)
        return path


def _add(folder: str, filesystem: str, step: Step) -> None:
    """Add what is in a folder to a file system, whose own files stay as they are; the folder goes."""
    command = ["mksquashfs", folder, filesystem, "-all-root", "-quiet", "-no-progress", "-no-recovery", "-no-xattrs"]
    step.run(command, what="adding Stillframe to the file system")
    shutil.rmtree(folder)


def make_tree(base: Base, filesystem: str, settings: Settings, room: str, *, serial: bool) -> str:
    """A folder with all files of a medium; large ones are links."""
    tree = Path(room, "tree")
    for path, source in _files(base, filesystem):
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
    kernel = Path(base.piece("kernel-version")).read_text().strip()
    words = menu(
        keyboard=settings.keyboard, serial=serial, has_memtest=all(os.path.exists(base.piece(one)) for one in MEMTEST)
    )
    (tree / ".disk").mkdir()
    (tree / ".disk/info").write_text(f"Stillframe {stillframe.__version__} rescue medium\n")
    (tree / "boot/grub/grub.cfg").write_text(words)
    (tree / "README.txt").write_text(_README.format(version=stillframe.__version__, kernel=kernel))
    return str(tree)


def label_of(base: Base) -> str:
    """The label by which a medium is found by its own initramfs."""
    return Path(base.piece("label")).read_text().strip()


def _files(base: Base, filesystem: str) -> Iterator[tuple[str, str]]:
    yield "live/filesystem.squashfs", filesystem
    for name in ("vmlinuz", "initrd", "modules.alias", "packages.txt"):
        yield f"live/{name}", base.piece(name)
    for name in MEMTEST:
        if os.path.exists(base.piece(name)):
            yield f"boot/{name}", base.piece(name)
    for name in ESP_FILES:
        yield f"EFI/BOOT/{name}", base.piece(f"efi/{name}")
    for name in sorted(os.listdir(base.piece("grub/i386-pc"))):
        yield f"boot/grub/i386-pc/{name}", base.piece(f"grub/i386-pc/{name}")
