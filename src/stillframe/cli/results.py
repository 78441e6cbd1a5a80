"""Fields that many commands share in the JSON that other programs rely on; ``docs/cli.md`` lists the names.

Answers: "how does a program read this?" Names here never change their meaning.
"""

from collections.abc import Iterable
from typing import Any

from stillframe.events import Finding, Notice
from stillframe.repo.records import StoredNotice

Fields = dict[str, Any]


def notice_fields(notices: Iterable[Notice | StoredNotice]) -> list[Fields]:
    """Notices: code, message, hint; each once."""
    found = {(notice.code, notice.message): notice.hint for notice in notices}
    return [{"code": code, "message": message, "hint": hint} for (code, message), hint in found.items()]


def finding_fields(findings: Iterable[Finding]) -> list[Fields]:
    """Findings: code, message, hint, thing."""
    return [{"code": f.code, "message": f.message, "hint": f.hint, "thing": f.thing} for f in findings]
