"""The one seam to Windows: a few calls, as a Protocol, and the real ones.

Answers: "how is Windows asked?" It decides nothing: a failure is a ``Win32Failure`` with the number that Windows gave,
a method of VSS answers with its HRESULT. Modules above say what that means. ``testing.windows_transcript`` replays
recorded answers in place of it.

``SystemCalls`` HAS NOT RUN ON WINDOWS YET. What can be shown of it on Linux is that it puts arguments where the
documentation wants them.

Source: learn.microsoft.com, pages of CreateFileW, DeviceIoControl, ReadFile, FindFirstVolumeW,
GetVolumePathNamesForVolumeNameW, QueryDosDeviceW, CoInitializeEx, CoInitializeSecurity, CreateVssBackupComponents.
"""

import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from ctypes import c_int32, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Final, Protocol

from stillframe.errors import MachineRefusal
from stillframe.host.windows import codes
from stillframe.host.windows.com import TEXT_MAX, ComAnswer, ComValue, Freeing, Method, invoke, wide
from stillframe.host.windows.structures import Overlapped

INVALID_HANDLE: Final = 0xFFFFFFFFFFFFFFFF  # INVALID_HANDLE_VALUE, handleapi.h
_NAMES_MAX: Final = 1 << 24  # characters of a list of names; a bound, so that a mad answer does not eat the memory

# combaseapi.h and rpcdce.h: as restic and others call it, so that writers may call back.
_COINIT_MULTITHREADED: Final = 0
_AUTHN_LEVEL_PKT_PRIVACY: Final = 6
_IMP_LEVEL_IMPERSONATE: Final = 3
_EOAC_STATIC_CLOAKING: Final = 0x20


class Win32Failure(Exception):
    """A call of Windows failed. ``call`` is its name, ``code`` the number of ``GetLastError``.

    ``answer`` is as much of an answer as there was room for, with ERROR_MORE_DATA.
    """

    def __init__(self, call: str, code: int, answer: bytes = b"") -> None:
        super().__init__(f"{call} failed with Windows error {code}")
        self.call = call
        self.code = code
        self.answer = answer


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryValue:
    """One value of a key that holds text: a single text, or several (REG_MULTI_SZ)."""

    name: str
    texts: tuple[str, ...]


class DeviceCalls(Protocol):
    """What is asked of disks, volumes and shadows. Each call raises ``Win32Failure`` unless it says otherwise."""

    def open_handle(self, path: str, *, unbuffered: bool) -> int:
        """Open a disk, volume or shadow for reading, shared with everybody; ``unbuffered``: whole sectors only."""
        ...

    def close_handle(self, handle: int) -> None:
        """Close it. Does not fail."""
        ...

    def device_io_control(self, handle: int, code: int, given: bytes, size: int) -> bytes:
        """Ask a device; at most ``size`` bytes come back."""
        ...

    def read(self, handle: int, offset: int, buffer: memoryview) -> int:
        """Read at an offset into ``buffer``; the number of bytes read. For several threads at once."""
        ...


class MachineCalls(Protocol):
    """What is asked of the machine. Each call raises ``Win32Failure``."""

    def find_volumes(self) -> tuple[str, ...]:
        r"""Every volume, such as ``\\?\Volume{GUID}\``, with the backslash at its end."""
        ...

    def volume_path_names(self, volume: str) -> tuple[str, ...]:
        r"""Where a volume is mounted, such as ``C:\``; often nowhere."""
        ...

    def device_names(self) -> tuple[str, ...]:
        """Every MS-DOS device name, such as ``PhysicalDrive0``."""
        ...

    def registry_values(self, key: str) -> tuple[RegistryValue, ...]:
        """The values of a key below HKEY_LOCAL_MACHINE that hold text; none when there is no such key."""
        ...


class ShadowCalls(Protocol):
    """What is asked of the Volume Shadow Copy service."""

    def start_com(self) -> None:
        """Make this process ready for VSS; twice is once. Raises ``MachineRefusal``."""
        ...

    def create_backup_components(self) -> int:
        """A new IVssBackupComponents, by its address. Raises ``MachineRefusal``."""
        ...

    def call_method(self, pointer: int, method: Method, arguments: tuple[ComValue, ...]) -> ComAnswer:
        """Call a method of a VSS object. A failure is in the answer, nothing is raised."""
        ...

    def pause(self, seconds: float) -> None:
        """Let time pass between two tries."""
        ...


class WindowsCalls(DeviceCalls, MachineCalls, ShadowCalls, Protocol):
    """Everything that is asked of Windows."""


def is_windows() -> bool:
    """Whether this system is one that can be asked."""
    return sys.platform == "win32"


def system_calls() -> "SystemCalls":
    """The calls of this machine.

    Raises:
        MachineRefusal: This is not Windows, or a 32-bit Python.
    """
    if ctypes.sizeof(c_void_p) != 8:
        # A 32-bit process cannot reach the 64-bit VSS. Source: learn.microsoft.com, "Using VSS on 64-bit systems".
        raise MachineRefusal("a 32-bit Python cannot hold Windows volumes still", hint="Install the 64-bit Python.")
    return SystemCalls(Libraries(load=_load_library, last_error=_last_error))


@dataclass(frozen=True, slots=True, kw_only=True)
class Libraries:
    """How a library is loaded by name, and the error of the last call found. Tests put their own here."""

    load: Callable[[str], ctypes.CDLL]
    last_error: Callable[[], int]


class SystemCalls:
    """``WindowsCalls`` of the machine it runs on."""

    def __init__(self, libraries: Libraries) -> None:
        self._libraries = libraries
        self._com_started = False
        self._functions: dict[tuple[str, str], Callable[..., int]] = {}

    def open_handle(self, path: str, *, unbuffered: bool) -> int:
        """Open for reading, shared."""
        name = wide(path)
        create = self._function(
            "kernel32", "CreateFileW", c_uint64, c_void_p, c_uint32, c_uint32, c_void_p, c_uint32, c_uint32, c_void_p
        )
        flags = codes.FILE_FLAG_NO_BUFFERING if unbuffered else 0
        handle = create(
            ctypes.addressof(name), codes.GENERIC_READ, codes.FILE_SHARE_READ_WRITE, None, codes.OPEN_EXISTING, flags,
            None,
        )  # fmt: skip
        if handle == INVALID_HANDLE:
            raise self._failure("CreateFileW")
        return handle

    def close_handle(self, handle: int) -> None:
        """Close it."""
        self._function("kernel32", "CloseHandle", c_int32, c_uint64)(handle)

    def device_io_control(self, handle: int, code: int, given: bytes, size: int) -> bytes:
        """Ask a device."""
        control = self._function(
            "kernel32", "DeviceIoControl", c_int32, c_uint64, c_uint32, c_void_p, c_uint32, c_void_p, c_uint32,
            c_void_p, c_void_p,
        )  # fmt: skip
        before, after, returned = ctypes.create_string_buffer(given, len(given) + 1), _bytes_of(size), c_uint32()
        into = ctypes.addressof(after) if size else None
        source = ctypes.addressof(before) if given else None
        done = control(handle, code, source, len(given), into, size, ctypes.addressof(returned), None)
        failure = None if done else self._failure("DeviceIoControl")
        answer = bytes(after)[: min(returned.value, size)]
        if failure is not None:
            failure.answer = answer if failure.code == codes.ERROR_MORE_DATA else b""
            raise failure
        return answer

    def read(self, handle: int, offset: int, buffer: memoryview) -> int:
        """Read at an offset: with OVERLAPPED the position is the call's own, so threads do not disturb each other."""
        read = self._function("kernel32", "ReadFile", c_int32, c_uint64, c_void_p, c_uint32, c_void_p, c_void_p)
        place = Overlapped(Offset=offset & 0xFFFFFFFF, OffsetHigh=offset >> 32)
        target, count = (ctypes.c_uint8 * len(buffer)).from_buffer(buffer), c_uint32()
        if not read(
            handle, ctypes.addressof(target), len(buffer), ctypes.addressof(count), ctypes.addressof(place)
        ):  # fmt: skip
            raise self._failure("ReadFile")
        return count.value

    def find_volumes(self) -> tuple[str, ...]:
        """Every volume."""
        return tuple(self._each_volume())

    def volume_path_names(self, volume: str) -> tuple[str, ...]:
        """Where a volume is mounted."""
        name, needed = wide(volume), c_uint32()
        ask = self._function(
            "kernel32", "GetVolumePathNamesForVolumeNameW", c_int32, c_void_p, c_void_p, c_uint32, c_void_p
        )
        return self._names(
            "GetVolumePathNamesForVolumeNameW",
            lambda into, size: ask(ctypes.addressof(name), into, size, ctypes.addressof(needed)),
        )

    def device_names(self) -> tuple[str, ...]:
        """Every MS-DOS device name."""
        ask = self._function("kernel32", "QueryDosDeviceW", c_uint32, c_void_p, c_void_p, c_uint32)
        return self._names("QueryDosDeviceW", lambda into, size: ask(None, into, size))

    def registry_values(self, key: str) -> tuple[RegistryValue, ...]:
        """The values of a key that hold text."""
        return tuple(RegistryValue(name=name, texts=texts) for name, texts in _registry_texts(key))

    def start_com(self) -> None:
        """COM without apartments, and the right of writers to call back."""
        if self._com_started:
            return
        start = self._function("ole32", "CoInitializeEx", c_int32, c_void_p, c_uint32)
        _require(start(None, _COINIT_MULTITHREADED), "CoInitializeEx", fine=codes.RPC_E_CHANGED_MODE)
        secure = self._function(
            "ole32", "CoInitializeSecurity", c_int32, c_void_p, c_int32, c_void_p, c_void_p, c_uint32, c_uint32,
            c_void_p, c_uint32, c_void_p,
        )  # fmt: skip
        hresult = secure(
            None, -1, None, None, _AUTHN_LEVEL_PKT_PRIVACY, _IMP_LEVEL_IMPERSONATE, None, _EOAC_STATIC_CLOAKING, None
        )
        _require(hresult, "CoInitializeSecurity", fine=codes.RPC_E_TOO_LATE)  # once a process; somebody was earlier
        self._com_started = True

    def create_backup_components(self) -> int:
        """CreateVssBackupComponents is inline in the header; this is what the library exports."""
        create = self._function("vssapi", "CreateVssBackupComponentsInternal", c_int32, c_void_p)
        found = c_uint64()
        _require(create(ctypes.addressof(found)), "CreateVssBackupComponents")
        return found.value

    def call_method(self, pointer: int, method: Method, arguments: tuple[ComValue, ...]) -> ComAnswer:
        """Call a method of a VSS object."""
        freeing = Freeing(
            bstr=self._function("oleaut32", "SysFreeString", None, c_void_p),
            snapshot=self._function("vssapi", "VssFreeSnapshotPropertiesInternal", None, c_void_p),
        )
        return invoke(pointer, method, arguments, freeing)

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def _function(self, library: str, name: str, result: type | None, *arguments: type) -> Callable[..., int]:
        """A function of a library with its types declared; ``c_uint64`` stands for a handle, the size of a pointer."""
        found = self._functions.get((library, name))
        if found is None:
            try:
                address = ctypes.cast(getattr(self._libraries.load(library), name), c_void_p).value or 0
            except (OSError, AttributeError) as error:
                raise MachineRefusal(
                    f"this Windows has no {name} in {library}.dll", hint="Is it a rescue system? Use the Linux one."
                ) from error
            found = self._functions[library, name] = _prototype(result, *arguments)(address)
        return found

    def _failure(self, call: str) -> Win32Failure:
        return Win32Failure(call, self._libraries.last_error())

    def _each_volume(self) -> Iterator[str]:
        buffer = (ctypes.c_uint16 * TEXT_MAX)()
        first = self._function("kernel32", "FindFirstVolumeW", c_uint64, c_void_p, c_uint32)
        following = self._function("kernel32", "FindNextVolumeW", c_int32, c_uint64, c_void_p, c_uint32)
        search = first(ctypes.addressof(buffer), TEXT_MAX)
        if search == INVALID_HANDLE:
            raise self._failure("FindFirstVolumeW")
        try:
            yield from split_names(bytes(buffer))[:1]
            while following(search, ctypes.addressof(buffer), TEXT_MAX):
                yield from split_names(bytes(buffer))[:1]
            failure = self._failure("FindNextVolumeW")
            if failure.code != codes.ERROR_NO_MORE_FILES:
                raise failure
        finally:
            self._function("kernel32", "FindVolumeClose", c_int32, c_uint64)(search)

    def _names(self, call: str, ask: Callable[[int, int], int]) -> tuple[str, ...]:
        """Ask for a list of names, with more room until it fits."""
        size = TEXT_MAX
        while True:
            buffer = (ctypes.c_uint16 * size)()
            if ask(ctypes.addressof(buffer), size):
                return split_names(bytes(buffer))
            failure = self._failure(call)
            if failure.code not in (codes.ERROR_MORE_DATA, codes.ERROR_INSUFFICIENT_BUFFER) or size >= _NAMES_MAX:
                raise failure
            size *= 2


def split_names(units: bytes) -> tuple[str, ...]:
    """Names in UTF-16, each with a zero at its end, up to an empty one."""
    names = []
    for name in units.decode("utf-16-le", "replace").split("\0"):
        if not name:
            break
        names.append(name)
    return tuple(names)


def _bytes_of(size: int) -> "ctypes.Array[ctypes.c_char]":
    return ctypes.create_string_buffer(max(size, 1))


def _require(hresult: int, call: str, *, fine: int = codes.S_OK) -> None:
    code = hresult & 0xFFFFFFFF
    if code >= 0x80000000 and code != fine:
        meaning = codes.meaning_of(code)
        raise MachineRefusal(f"{call} failed: {meaning.words} ({meaning.name})", hint=meaning.hint)


def _prototype(result: type | None, *arguments: type) -> Callable[[int], Callable[..., int]]:
    """A type of function that keeps ``GetLastError`` for ``ctypes.get_last_error``."""
    if sys.platform == "win32":
        return ctypes.WINFUNCTYPE(result, *arguments, use_last_error=True)
    return ctypes.CFUNCTYPE(result, *arguments)


def _load_library(name: str) -> ctypes.CDLL:
    if sys.platform == "win32":
        return ctypes.WinDLL(f"{name}.dll", use_last_error=True)
    raise _not_windows()


def _last_error() -> int:
    if sys.platform == "win32":
        return ctypes.get_last_error()
    raise _not_windows()


def _registry_texts(key: str) -> list[tuple[str, tuple[str, ...]]]:
    if sys.platform == "win32":
        import winreg  # noqa: PLC0415  it exists there only

        found: list[tuple[str, tuple[str, ...]]] = []
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as opened:
                for index in range(winreg.QueryInfoKey(opened)[1]):
                    name, value, kind = winreg.EnumValue(opened, index)
                    if kind == winreg.REG_MULTI_SZ:
                        found.append((name, tuple(value)))
                    elif kind in (winreg.REG_SZ, winreg.REG_EXPAND_SZ):
                        found.append((name, (value,)))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Win32Failure("RegOpenKeyExW", error.winerror or 0) from error
        return found
    raise _not_windows()


def _not_windows() -> MachineRefusal:
    return MachineRefusal(
        "Windows' own calls exist on Windows only", hint="On Linux, `stillframe disks` lists the disks."
    )
