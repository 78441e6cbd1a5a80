"""The smallest thing that starts: a boot sector that writes a text on the screen, and stops or switches itself off.

Answers: "where does a test get a disk that boots in two seconds?"
"""

from typing import Final

# xor ax,ax / mov ds,ax / mov si,0x7c19 / cld / again: lodsb / test al,al / jz done / mov ah,0x0e / mov bx,7 / int 0x10
# / jmp again / done: hlt / jmp done. The firmware loads it at 0x7C00; INT 10h, AH=0Eh, writes a character.
_CODE: Final = bytes.fromhex("31c0 8ed8 be197c fc ac 84c0 7409 b40e bb0700 cd10 ebf2 f4 ebfd")


# mov dx,0x604 / mov ax,0x2000 / out dx,ax: the ACPI register that switches QEMU's q35 off, where SeaBIOS puts it.
_OFF: Final = bytes.fromhex("ba0406 b80020 ef")


def make_boot_disk(text: str, *, size: int = 4 << 20, switches_off: bool = False) -> bytes:
    """A disk without partitions whose first sector writes ``text``, at most 400 characters, and stops."""
    said = text.replace("\n", "\r\n").encode("ascii") + b"\0"
    code = _CODE
    if switches_off:
        code = _CODE[:22] + _OFF + _CODE[22:]
        code = code.replace(b"\xbe\x19\x7c", b"\xbe" + bytes((len(code), 0x7C)))
    assert len(code) + len(said) <= 440
    return (code + said).ljust(510, b"\0") + b"\x55\xaa" + bytes(size - 512)
