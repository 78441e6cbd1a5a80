"""How bytes are kept: the repository. ``docs/format/v1.md`` is normative.

From the ground up: ``format`` (container), ``sealing``, ``rows``; ``objects``, ``packs``, ``blockmap``; ``identity``,
``keys``, ``records``; ``index``; ``repository`` (open and look), ``session`` (write); ``check repair expire`` (care).
"""
