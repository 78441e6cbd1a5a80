"""The verb ``export``: a stored disk, or a partition of it, as a file of another program.

``plan_export`` looks, ``apply_export`` writes. See docs/adr/0018-exports.md.
"""

from stillframe.jobs.exporting.applying import ExportResult, apply_export
from stillframe.jobs.exporting.names import FORMATS, WrittenFile, format_of
from stillframe.jobs.exporting.planning import ExportOptions, ExportPlan, plan_export

__all__ = [
    "FORMATS",
    "ExportOptions",
    "ExportPlan",
    "ExportResult",
    "WrittenFile",
    "apply_export",
    "format_of",
    "plan_export",
]
