"""Parity: what brings rotted blocks of an object back. Normative: ``docs/format/v1.md``, section 16."""
