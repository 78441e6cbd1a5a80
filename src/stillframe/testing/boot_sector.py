"""The smallest thing that starts: a boot sector that writes a text on the screen and stops.

Answers: "where does a test get a disk that boots in two seconds?"
"""

from typing import Final

# xor ax,ax / mov ds,ax / mov si,0x7c19 / cld / again: lodsb / test al,al / jz done / mov ah,0x0e / mov bx,7 / int 0x10
# / jmp again / done: hlt / jmp done. The firmware loads it at 0x7C00; INT 10h, AH=0Eh, writes a character.
_CODE: Final = bytes.fromhex("31c0 8ed8 be197c fc ac 84c0 7409 b40e bb0700 cd10 ebf2 f4 ebfd")


def make_boot_disk(text: str, *, size: int = 4 << 20) -> bytes:
    """A disk without partitions whose first sector writes ``text``, at most 400 characters, and stops."""
    said = text.replace("\n", "\r\n").encode("ascii") + b"\0"
    assert len(_CODE) + len(said) <= 440
    return (_CODE + said).ljust(510, b"\0") + b"\x55\xaa" + bytes(size - 512)
