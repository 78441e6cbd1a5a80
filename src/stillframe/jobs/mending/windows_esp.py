r"""A Windows whose boot files for UEFI are gone: they come back from its own folder.

Answers: "what starts this Windows by UEFI?" As a conversion puts them there (``windows_uefi``): boot files from
``Windows\Boot``, a new boot configuration where there is none that can be read. A loader that is missing beside a
configuration that is whole is copied alone, and the configuration stays as it is. No real Windows was ever started
after it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from stillframe.errors import MachineRefusal, StillframeError
from stillframe.events import Notice
from stillframe.host.changeable_files import ChangeableFiles
from stillframe.host.esp_files import FatVolume, read_file, remove_file, write_file
from stillframe.jobs.conversions.windows_uefi import prepare_windows_uefi
from stillframe.jobs.mending.esp import find_esp, require_fat
from stillframe.jobs.starts.windows_adapting import find_installed
from stillframe.jobs.starts.workbench import Workbench
from stillframe.systems.hive import Hive

if TYPE_CHECKING:
    from stillframe.disk import Layout

_FOLDER: Final = "/EFI/Microsoft/Boot"
_STORE: Final = f"{_FOLDER}/BCD"
_KEPT: Final = f"{_FOLDER}/BCD.before-repair"
_LOADER: Final = f"{_FOLDER}/bootmgfw.efi"
_SOURCE: Final = "Boot/EFI/bootmgfw.efi"
_LOADER_MAX: Final = 64 << 20


@dataclass(slots=True, kw_only=True)
class WindowsEspWork:
    """Work on the bench; ``notices`` are true when it succeeded.

    Attributes:
        layout: Of the disk.
        windows: The number of the partition with the Windows.
        esp_id: Of an EFI system partition that is made anew.
        notices: What must be known of what was done.
    """

    layout: "Layout"
    windows: int
    esp_id: str
    notices: list[Notice] = field(default_factory=list)

    def do(self, bench: Workbench) -> tuple[str, ...]:
        """Put back what is missing; what was done, in sentences.

        Raises:
            MachineRefusal, DiskFormatError, DeviceError: It is not possible, and nothing of it may be taken over.
        """
        part = find_esp(self.layout)
        if part is None:
            raise MachineRefusal(
                "which EFI system partition is meant cannot be told", hint="Only a disk with one is repaired here."
            )
        esp, words = require_fat(bench, part, self.esp_id)
        store = read_file(esp, _STORE)
        if store and _is_whole(store):
            return (*words, *self._copy_loader(bench, esp))
        if store is not None:
            write_file(esp, _KEPT, store)
            remove_file(esp, _STORE)
            words = (*words, f"a boot configuration that could not be read is kept as {_KEPT}")
        done, notices = prepare_windows_uefi(bench, self.windows, part.number)
        self.notices += notices
        return (*words, *done)

    def _copy_loader(self, bench: Workbench, esp: FatVolume) -> Iterator[str]:
        """The loader alone, beside a configuration that is there."""
        if read_file(esp, _LOADER) is not None:
            return
        found = next(iter(find_installed(bench, [self.windows], frozenset())), None)
        if found is None or not found.folder:
            return
        files = ChangeableFiles(bench.mount(self.windows, "ntfs", "ro"))
        contents = files.read_file(f"{found.folder}/{_SOURCE}", 0, _LOADER_MAX)
        if not contents:
            raise MachineRefusal(
                f"partition {self.windows} has no {_SOURCE} that could be put back",
                hint="Start Windows' own medium and run 'bcdboot C:\\Windows' there.",
            )
        write_file(esp, _LOADER, contents)
        yield f"Windows' loader was put back from its own folder, {_LOADER}"


def _is_whole(store: bytes) -> bool:
    try:
        return Hive.open(lambda at, size: store[at : at + size]) is not None
    except StillframeError:
        return False
