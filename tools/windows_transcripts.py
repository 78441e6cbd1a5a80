"""Writes the transcripts in tests/data/windows again, from Microsoft's documentation. Nothing is recorded on Windows.

    python tools/windows_transcripts.py

What they say stands in src/stillframe/testing/windows_documented.py; a test compares.
"""

from pathlib import Path

from stillframe.testing.windows_documented import NOT_RECORDED, TRANSCRIPTS
from stillframe.testing.windows_transcript import write_transcript

FOLDER = Path(__file__).parents[1] / "tests" / "data" / "windows"


def main() -> None:
    """Write each of them."""
    for name, (lines, title) in TRANSCRIPTS.items():
        (FOLDER / name).write_text(write_transcript(lines(), title=f"{title}; {NOT_RECORDED}"), "utf-8")


if __name__ == "__main__":
    main()
