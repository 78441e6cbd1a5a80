"""The initramfs of a restored Linux, made anew with all drivers, by the system's own program.

Answers: "can this system's early user space see any disk, and name the right one?" Which program, is decided by what is
installed. It is always made for any machine: what the program would find here is this machine, and not where it starts.
Nor can it find out here that its root lies in LUKS, LVM or RAID, as there is no device mapper: it is told, and what it
made is looked into (``linux_early``).

Sources: update-initramfs(8), initramfs.conf(5) (``MODULES=most``), dracut(8) (``--no-hostonly``, ``--add``,
``--kernel-cmdline``), mkinitcpio(8) and mkinitcpio.conf(5) (``autodetect``).
"""

import re
from collections.abc import Iterator
from typing import Final

from stillframe.errors import MachineRefusal
from stillframe.host.inside_system import run_inside
from stillframe.host.root_files import RootFiles
from stillframe.jobs.starts.linux_early import require_early
from stillframe.jobs.starts.linux_mounts import MountedLinux

_IMAGE: Final = re.compile(r"(?:initrd\.img|initramfs|initrd)-([0-9][\w.+~-]*?)(?:\.img)?")
_DEBIAN: Final = ("/usr/sbin/update-initramfs", "/sbin/update-initramfs")
_DRACUT: Final = ("/usr/bin/dracut", "/usr/sbin/dracut", "/sbin/dracut")
_DRACUT_MODULES: Final[dict[str, str]] = {"raid": "mdraid", "luks": "crypt", "lvm": "lvm"}
"""dracut.modules(7): what opens each layer."""
_ARCH: Final = "/usr/bin/mkinitcpio"
_ARCH_SETTINGS: Final = "/etc/mkinitcpio.conf"
_MOST: Final = "/etc/initramfs-tools/conf.d/zz-stillframe"
"""Read after all others, as they are read by name; removed again."""
_MODULES: Final = ("/lib/modules", "/usr/lib/modules")
_AUTODETECT: Final = re.compile(rb"(?m)^(HOOKS=.*?)\bautodetect\b ?")
_SETTINGS_MAX: Final = 1 << 20


def rebuild_initramfs(linux: MountedLinux) -> tuple[str, ...]:
    """Make it anew for every kernel that has modules; what was done, in words.

    Raises:
        MachineRefusal: There is no program for it, it does not run here, or it failed.
    """
    files = linux.files
    if not files.is_folder("/boot"):
        raise MachineRefusal("the restored system has no /boot", hint="Is it on a disk that was not restored?")
    if any(files.is_program(path) for path in _DEBIAN) and files.is_folder("/etc/initramfs-tools"):
        names = tuple(_for_debian(linux))
    elif any(files.is_program(path) for path in _DRACUT):
        names = tuple(_by_dracut(linux))
    elif files.is_program(_ARCH):
        names = tuple(_for_arch(linux))
    else:
        raise MachineRefusal(
            "the restored system has none of update-initramfs, dracut and mkinitcpio, so its initramfs stays as it is",
            hint="If it does not start, start it from its own medium and make the initramfs there.",
        )
    if not names:
        raise MachineRefusal(
            "no kernel of the restored system has both modules and an initramfs in /boot", hint="Is /boot whole?"
        )
    return (f"the initramfs was made anew with all drivers ({', '.join(names)})",)


def images_of(files: RootFiles) -> Iterator[tuple[str, str]]:
    """Every initramfs in ``/boot`` that belongs to a kernel with modules: its name, and the version."""
    versions = {name for folder in _MODULES for name in files.list_names(folder)}
    for name in files.list_names("/boot"):
        found = _IMAGE.fullmatch(name)
        if found and found[1] in versions and files.is_file(f"/boot/{name}"):
            yield name, found[1]


def _for_debian(linux: MountedLinux) -> Iterator[str]:
    program = next(path for path in _DEBIAN if linux.files.is_program(path))
    linux.files.write_file(_MOST, b"MODULES=most\n")
    try:
        for name, version in images_of(linux.files):
            _make(linux, name, [program, "-u", "-k", version])
            yield name
    finally:
        linux.files.remove_file(_MOST)


def _by_dracut(linux: MountedLinux) -> Iterator[str]:
    program = next(path for path in _DRACUT if linux.files.is_program(path))
    wanted = [_DRACUT_MODULES[layer] for layer in linux.early.layers]
    more = ["--add", " ".join(wanted), "--kernel-cmdline", " ".join(linux.early.arguments)] if wanted else []
    for name, version in images_of(linux.files):
        _make(linux, name, [program, "--force", "--no-hostonly", *more, f"/boot/{name}", version])
        yield name


def _for_arch(linux: MountedLinux) -> Iterator[str]:
    """All presets. Its images are named by package, ``initramfs-linux.img``, and not by version."""
    files = linux.files
    settings = files.read_file(_ARCH_SETTINGS, 0, _SETTINGS_MAX) or b""
    files.write_file(_ARCH_SETTINGS, _AUTODETECT.sub(rb"\1", settings))
    try:
        run_inside(files, [_ARCH, "-P"], seen=linux.seen)
    finally:
        files.write_file(_ARCH_SETTINGS, settings)
    for name in files.list_names("/boot"):
        if name.startswith("initramfs-"):
            require_early(files, name, linux.early)
            yield name


def _make(linux: MountedLinux, name: str, arguments: list[str]) -> None:
    """Run a program that makes an image, and see that it did."""
    before = linux.files.change_time(f"/boot/{name}")
    run_inside(linux.files, arguments, seen=linux.seen)
    if linux.files.change_time(f"/boot/{name}") == before:
        raise MachineRefusal(
            f"{arguments[0]} of the restored system did not make /boot/{name} anew",
            hint="Start the system from its own medium and run it there.",
        )
    require_early(linux.files, name, linux.early)
