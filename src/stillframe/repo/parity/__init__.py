"""Parity: what brings rotted blocks of an object back. Normative: ``docs/format/v1-draft.md``, section 16."""
