"""The command of a virtual machine, and the pictures and words it gives back."""

import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from stillframe.errors import MachineRefusal, MissingProgram
from stillframe.host.pictures import Picture, parse_ppm
from stillframe.host.qemu import (
    DirectKernel,
    Drive,
    FileDrive,
    VirtualMachine,
    build_command,
    find_firmware,
    memory_default_mib,
    prepare,
)
from stillframe.host.qmp import parse_line
from stillframe.host.run import start

FOLDER = "/run/x"
URI = "nbd+unix:///disk1?socket=/run/x,y/nbd"
MACHINE = VirtualMachine(folder=FOLDER, drives=(Drive(uri=URI),), memory_mib=1024, cpus=2)


def test_a_machine_is_emulated_and_has_no_network_unless_asked() -> None:
    command = build_command(MACHINE, code="")
    assert command[command.index("-accel") + 1] == "tcg,thread=multi"
    assert command[command.index("-cpu") + 1] == "max,avx2=off"
    assert command[command.index("-nic") + 1] == "none"
    assert not any("pflash" in word for word in command)
    asked = build_command(replace(MACHINE, network=True, acceleration="kvm"), code="")
    assert "-nic" not in asked
    assert asked[asked.index("-accel") + 1] == "kvm"


def test_disks_are_of_the_kind_that_was_asked_for() -> None:
    for bus, device in (("virtio", "virtio-blk-pci"), ("sata", "ide-hd"), ("nvme", "nvme")):
        drive = Drive(uri=URI, bus=bus)  # type: ignore[arg-type]
        command = build_command(replace(MACHINE, drives=(drive, drive), boot_index=1), code="")
        devices = [word for word in command if word.startswith(device + ",")]
        assert len(devices) == 2
        assert ["bootindex" in word for word in devices] == [False, True]
    assert any("file.server.path=/run/x,,y/nbd,file.export=disk1" in word for word in build_command(MACHINE, code=""))


def test_secure_boot_locks_the_variables() -> None:
    command = build_command(replace(MACHINE, firmware="secure-boot"), code="/usr/share/OVMF/OVMF_CODE_4M.ms.fd")
    assert "q35,smm=on" in command
    assert "driver=cfi.pflash01,property=secure,value=on" in command


def test_firmware_is_found_where_distributions_put_it() -> None:
    arch = ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd")
    fedora = ("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd")
    assert find_firmware("bios", exists=()) is None
    assert find_firmware("uefi", exists=arch) == arch
    assert find_firmware("secure-boot", exists=fedora) == fedora
    with pytest.raises(MissingProgram) as raised:
        find_firmware("uefi", exists=arch[:1])
    assert "apt install ovmf" in raised.value.hint


def test_memory_is_half_of_what_is_there_within_bounds() -> None:
    assert memory_default_mib(4 << 30) == 2048
    assert memory_default_mib(512 << 20) == 512
    assert memory_default_mib(1 << 40) == 4096


def test_a_picture_becomes_a_png_of_the_same_points() -> None:
    pixels = bytes(range(18))
    png = parse_ppm(b"P6\n3 2\n255\n" + pixels).build_png()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at, found = 8, {}
    while at < len(png):  # length, name, data, CRC-32: PNG specification, section 5.3
        size, name = struct.unpack_from(">I4s", png, at)
        data = png[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", png, at + 8 + size)[0] == zlib.crc32(name + data)
        found[name] = data
        at += 12 + size
    assert struct.unpack(">IIBBBBB", found[b"IHDR"]) == (3, 2, 8, 2, 0, 0, 0)
    assert zlib.decompress(found[b"IDAT"]) == b"\0" + pixels[:9] + b"\0" + pixels[9:]


@pytest.mark.parametrize("raw", [b"", b"P6\n3 2\n255\nshort", b"P5\n1 1\n255\n\0", b"P6\n0 0\n255\n"])
def test_what_is_no_picture_is_refused(raw: bytes) -> None:
    with pytest.raises(MachineRefusal):
        parse_ppm(raw)


def test_colours_are_counted() -> None:
    picture = Picture(width=2, height=2, pixels=bytes((0, 0, 170)) * 3 + bytes(3))
    assert picture.share_of((0, 0, 170)) == 0.75


def test_lines_of_the_protocol() -> None:
    assert parse_line(b'{"return": {"running": true}}') == {"return": {"running": True}}
    for line in (b"", b"[]", b"{", b"\xff"):
        with pytest.raises(MachineRefusal):
            parse_line(line)


def test_a_program_does_not_outlive_who_started_it(tmp_path: Path) -> None:
    ready = tmp_path / "pid.new"
    script = f"echo $$ > {ready}; mv {ready} {tmp_path / 'pid'}; exec sleep 987"
    code = (
        "import os, signal, time\nfrom stillframe.host.run import start\n"
        f"with start(['sh', '-c', {script!r}]):\n"
        f"    while not os.path.exists({str(tmp_path / 'pid')!r}):\n"
        "        time.sleep(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -9
    stat = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    for _ in range(100):
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        subprocess.run(["sleep", "0.05"], check=True)
    else:
        raise AssertionError("the program still runs")


def test_a_program_is_stopped_at_the_end_of_its_block() -> None:
    with start(["sleep", "987"]) as running:
        assert running.wait(0.05) is None
    assert running.wait() == -9


def test_a_stick_in_a_file_is_started_and_never_written() -> None:
    files = (
        FileDrive(path="/media/a,b.iso", use="stick"), FileDrive(path="/x/disk", use="target", bus="nvme", serial="r"),
        FileDrive(path="/x/root", use="throw-away", bus="sata"),
    )  # fmt: skip
    drive = Drive(uri=URI, serial="repository", read_only=True)
    command = build_command(replace(MACHINE, drives=(drive,), boot_index=None, files=files), code="")
    text = "\n".join(command)
    assert "file=/media/a,,b.iso,readonly=on" in text
    assert [word for word in command if "bootindex" in word] == [
        "usb-storage,drive=file0,id=stick0,removable=on,bootindex=0"
    ]
    assert "nvme,drive=file1,id=dev2,logical_block_size=512,physical_block_size=512,serial=r" in command
    assert any("file=/x/root,snapshot=on" in word for word in command)
    (node,) = [word for word in command if "driver=nbd" in word]
    assert node.endswith("read-only=on")
    assert "discard" not in node


def test_what_the_firmware_hands_over_and_a_kernel_are_named() -> None:
    kernel = DirectKernel(kernel="/x/vmlinuz", initrd="/x/initrd", line="root=/dev/vda quiet")
    command = build_command(replace(MACHINE, kernel=kernel, given=(("opt/a", "/run/x,y"),)), code="")
    assert command[command.index("-append") + 1] == "root=/dev/vda quiet"
    assert command[command.index("-fw_cfg") + 1] == "name=opt/a,file=/run/x,,y"


def test_a_firmware_goes_on_with_what_it_had_noted(tmp_path: Path) -> None:
    before = tmp_path / "before"
    before.write_bytes(b"what was noted")
    machine = replace(MACHINE, folder=str(tmp_path), firmware="uefi", variables=str(before))
    prepare(machine)
    assert (tmp_path / "variables").read_bytes() == b"what was noted"
