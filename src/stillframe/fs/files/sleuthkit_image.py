"""A ``BlockReader`` for The Sleuth Kit: how the library gets its bytes.

Answers: "what did the reader say while the library read?" An exception cannot pass through its C code, so it is kept.

Source: pytsk3 20260715, tsk3.h.
"""

from functools import cache
from typing import Any

from stillframe.block import BlockReader
from stillframe.errors import Cancelled, StillframeError


def take_fault(image: Any) -> StillframeError | None:
    """What the reader raised while the library read; what is no read error goes on its way."""
    fault: BaseException | None = image.fault
    image.fault = None
    if fault is None:
        return None
    if not isinstance(fault, StillframeError) or isinstance(fault, Cancelled):
        raise fault
    return fault


@cache
def _image_class() -> Any:
    """The class through which the library reads; it can only be made when the library is loaded."""
    import pytsk3  # noqa: PLC0415 12 MB that most verbs do not need

    class Image(pytsk3.Img_Info):  # type: ignore[misc]
        """A ``BlockReader`` for the library. An error is kept in ``fault``; the library sees a read that gave nothing.

        An exception cannot pass through its C code, which would go on with whatever the buffer holds.
        """

        def __init__(self, reader: BlockReader) -> None:
            self.reader = reader
            self.fault: BaseException | None = None
            super().__init__(url="", type=pytsk3.TSK_IMG_TYPE_EXTERNAL, sector_size=reader.sector_size)

        def get_size(self) -> int:
            return self.reader.size

        def read(self, offset: int, size: int) -> bytes:
            try:
                return self.reader.read_at(offset, max(0, min(size, self.reader.size - offset)))
            except BaseException as error:  # noqa: BLE001 it is raised again as soon as the library has returned
                self.fault = self.fault or error
                return b""

        def close(self) -> None:
            """Nothing to close: the reader is the caller's."""

    return Image


def open_image(reader: BlockReader) -> Any:
    """The reader as the library wants one; ask ``take_fault`` after every call of the library."""
    return _image_class()(reader)
