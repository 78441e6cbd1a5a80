"""The recovery sheet: one page that a frightened person follows without knowing anything.

Answers: "what stands on it?" Pure: facts in, HTML out. No script, nothing from the network; one page of A4 and of
Letter. What comes from the machine is escaped.

Sources of the keys: the makers' support pages on "boot menu", as of 2025. They differ between models, so the page names
two, and what to do when neither works.
"""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

# Maker as the firmware spells it, as people do, the key of the boot menu.
_KEYS: Final = (
    ("acer", "Acer", "F12"), ("apple", "Apple (Intel)", "hold Option (Alt)"), ("asus", "ASUS", "Esc or F8"),
    ("dell", "Dell", "F12"), ("framework", "Framework", "F12"), ("fujitsu", "Fujitsu", "F12"),
    ("gigabyte", "Gigabyte", "F12"), ("hewlett", "HP", "Esc, then F9"), ("hp", "HP", "Esc, then F9"),
    ("intel", "Intel NUC", "F10"), ("lenovo", "Lenovo", "F12, or Enter"), ("micro-star", "MSI", "F11"),
    ("msi", "MSI", "F11"), ("microsoft", "Surface", "hold volume down"), ("samsung", "Samsung", "Esc or F10"),
    ("sony", "Sony", "F11"), ("toshiba", "Toshiba", "F12"),
)  # fmt: skip
_TABLE: Final = ("Dell", "HP", "Lenovo", "Acer", "ASUS", "MSI", "Gigabyte", "Samsung", "Toshiba", "Surface")
_DISKS_SHOWN: Final = 4
_TEXT_MAX: Final = 120

_STYLE: Final = """
@page { margin: 11mm 13mm }
* { box-sizing: border-box }
body { font: 9.4pt/1.26 "DejaVu Sans", "Segoe UI", Arial, sans-serif; color: #000; margin: 0 auto; max-width: 184mm }
h1 { font-size: 16pt; margin: 0 0 1mm }
h2 { font-size: 10.5pt; margin: 2.4mm 0 .8mm; border-bottom: 1px solid #000 }
p { margin: 0 0 1.2mm }
ol { margin: 0; padding-left: 6mm }
li { margin-bottom: .8mm }
table { border-collapse: collapse; width: 100% }
td { padding: .3mm 3mm .3mm 0; vertical-align: top }
td:first-child { white-space: nowrap; width: 34mm }
kbd, code { font: bold 1em "DejaVu Sans Mono", monospace }
.keys td { width: auto; white-space: normal; font-size: 9pt }
.key { border: 2px solid #000; padding: 1.5mm 2mm; margin-top: 1.5mm }
.key svg { float: right; width: 25mm; height: 25mm; margin-left: 4mm }
.key::after { content: ""; display: block; clear: both }
.small { font-size: 8.4pt }
.small p { margin-bottom: .7mm }
.line { display: inline-block; border-bottom: 1px solid #000; width: 90mm }
@media screen { body { padding: 10mm } }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetFacts:
    """What is known of a computer and its backups.

    Attributes:
        machine: Its host name.
        maker, product: As its firmware says; empty when it does not.
        disks: Its disks, each in words: size, model, serial number.
        system_size: Size of the largest disk in its newest image, in words; empty when there is none.
        folder: Where the repository lies here.
        place: In words what holds it, such as the disk's model and serial number; empty when not known.
        repository: Its id.
        is_encrypted: Whether a passphrase opens it.
        image: When its newest image was made, in words; empty when there is none.
        recovery: The recovery time of the last rehearsal, in words; empty without one.
        has_bitlocker: A Windows on it is encrypted.
        made: The date of the page.
    """

    machine: str
    maker: str
    product: str
    disks: tuple[str, ...]
    system_size: str
    folder: str
    place: str
    repository: str
    is_encrypted: bool
    image: str
    recovery: str
    has_bitlocker: bool
    made: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PrintedKey:
    """A recovery key, and its QR code as SVG."""

    text: str
    picture: str


def build_sheet(facts: SheetFacts, key: PrintedKey | None = None) -> str:
    """The page."""
    keep = "" if key else " Keep this page with the rescue stick."
    calm = (
        "<p>Keep calm: nothing is changed before you type the word <kbd>restore</kbd> in step 8. "
        f"Made {_safe(facts.made)} with Stillframe.{keep}</p>"
    )
    parts = (_this_computer(facts), _steps(facts), _when_not(facts), _key_box(key, facts))
    body = ("<h1>How this computer comes back</h1>", calm, *(line for part in parts for line in part))
    title = f"Recovery sheet of {_safe(facts.machine)}"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def key_of_maker(maker: str) -> tuple[str, str] | None:
    """A maker as people call it, and the key of its boot menu."""
    first = maker.lower().replace("asustek", "asus").split()
    word = first[0] if first else ""
    return next(((name, key) for start, name, key in _KEYS if word and word.startswith(start)), None)


def _this_computer(facts: SheetFacts) -> Iterator[str]:
    box = " ".join(word for word in (facts.maker, facts.product) if word)
    more = f" and {len(facts.disks) - _DISKS_SHOWN} more" if len(facts.disks) > _DISKS_SHOWN else ""
    disks = "<br>".join(_safe(disk) for disk in facts.disks[:_DISKS_SHOWN]) + more
    yield "<h2>What belongs together</h2><table>"
    yield _row("This computer", f"<b>{_safe(facts.machine)}</b>" + (f" &ndash; {_safe(box)}" if box else ""))
    yield _row("Its disks", disks or "not known")
    place = f"{_safe(facts.place)}<br>" if facts.place else ""
    yield _row("Its backups", f"{place}in the folder <code>{_safe(facts.folder)}</code>")
    yield _row("Number of the backups", f"<code>{_safe(facts.repository)}</code>")
    yield _row("Newest when printed", _safe(facts.image) or "none yet: make a backup, and print this page again")
    yield _row("The rescue stick is", '<span class="line">&nbsp;</span> (write down where)')
    yield "</table>"


def _steps(facts: SheetFacts) -> Iterator[str]:
    known = key_of_maker(facts.maker)
    press = f"<kbd>{known[1]}</kbd> ({known[0]})" if known else "the key of the table below"
    opens = (
        "Type the passphrase of the backups, or the recovery key. Nothing is shown while you type the passphrase."
        if facts.is_encrypted
        else "These backups need no passphrase."
    )
    size = f", at least as large as the old one ({_safe(facts.system_size)})" if facts.system_size else ""
    took = f" In a rehearsal all of it took {_safe(facts.recovery)}." if facts.recovery else ""
    yield "<h2>What to do</h2>"
    steps = (
        f"Is the old disk broken? Have a new one built in{size}. Leave every other disk unplugged if you can.",
        "Plug in the rescue stick, and the disk with the backups (or a network cable, when they are on the network).",
        (
            f"Switch the computer on and at once press {press}, again and again, about twice a second. In the list "
            "choose the stick with the arrow keys: it is called USB, or by its maker's name. Press <kbd>Enter</kbd>."
        ),
        "A menu appears. Press <kbd>Enter</kbd> for its first line and wait; this takes a minute or two.",
        (
            "Choose <b>Restore this computer</b>. Backups are found; their number begins with "
            f"<code>{_safe(facts.repository[:8])}</code>. {opens}"
        ),
        (
            f"Choose the computer <b>{_safe(facts.machine)}</b>, and its newest image. If that one turns out bad, take "
            "one before."
        ),
        (
            "Choose the disk to restore to: compare its size and serial number with the label. <b>All that is on that "
            "is lost.</b> The disk with the backups cannot be chosen."
        ),
        "Read what will be done, then type <kbd>restore</kbd> and press <kbd>Enter</kbd>. Wait, and switch nothing off."
        + took,
        "When it says that it is done: pull the stick out, and choose <b>Restart</b>.",
    )
    yield "<ol>" + "\n".join(f"<li>{step}</li>" for step in steps) + "</ol>"


def _when_not(facts: SheetFacts) -> Iterator[str]:
    keys = {name: key for _, name, key in _KEYS}
    cells = [f"<td><b>{name}</b> <kbd>{keys[name]}</kbd></td>" for name in _TABLE]
    rows = "".join(f"<tr>{''.join(cells[at : at + 5])}</tr>" for at in range(0, len(cells), 5))
    yield f'<h2>Which key</h2><table class="keys">{rows}</table>'
    yield '<h2>When something is otherwise</h2><div class="small">'
    yield _trouble(
        "The computer starts as always, or says that there is nothing to start",
        "switch it off, and press the key earlier. In the settings of the firmware (F2, Del) allow starting from USB.",
    )
    yield _trouble(
        "The stick is refused (Secure Boot)",
        "in the same settings allow &ldquo;Microsoft 3rd party UEFI CA&rdquo;, or switch Secure Boot off.",
    )
    yield _trouble("No disk is shown", "in the same settings change the storage mode from RAID, RST or VMD to AHCI.")
    if facts.has_bitlocker:
        words = "48 digits, on your own paper or in your Microsoft account (aka.ms/myrecoverykey)."
        yield _trouble("Windows asks for a BitLocker key afterwards", words)
    yield _trouble(
        "The stick is lost",
        "on any Linux computer with Stillframe: <code>stillframe rescue build FILE.iso</code>. <b>No Stillframe at "
        "all:</b> the folder <code>reader</code> beside the backups holds a program for Python that needs nothing else "
        "of it, and a page that explains it.",
    )
    yield "</div>"


def _trouble(what: str, then: str) -> str:
    return f"<p><b>{what}:</b> {then}</p>"


def _key_box(key: PrintedKey | None, facts: SheetFacts) -> Iterator[str]:
    if key is not None:
        yield (
            f'<div class="key">{key.picture}<b>Recovery key</b>: opens the backups as the passphrase does.<br>'
            f'<code>{_safe(key.text)}</code><br><span class="small"><b>Whoever has this page and the disk with the '
            "backups can read everything.</b> Keep this page where you keep money, apart from that disk. Do not "
            "photograph it into a cloud. The code holds the same letters.</span></div>"
        )
    elif facts.is_encrypted:
        words = "<b>The recovery key is not on this page.</b> It is (write down where): "
        yield f'<p class="small">{words}<span class="line">&nbsp;</span></p>'


def _row(name: str, value: str) -> str:
    return f"<tr><td>{name}</td><td>{value}</td></tr>"


def _safe(text: str) -> str:
    """What came from the machine, so that it can only be text, and only one line of it."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return html.escape(shown[:_TEXT_MAX] + ("…" if len(shown) > _TEXT_MAX else ""))


def words_of_disks(disks: Sequence[tuple[str, str, str]]) -> tuple[str, ...]:
    """Disks in words: size, model and serial number of each."""
    return tuple(
        ", ".join(word for word in (size, model, serial and f"serial number {serial}") if word)
        for size, model, serial in disks
    )
