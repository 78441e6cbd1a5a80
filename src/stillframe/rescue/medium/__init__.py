"""The medium itself: a Debian that runs from a stick, a CD or the network, with Stillframe on it.

Facade of this room: what is made stands in ``wishes`` and ``plan``, the making in ``building`` and ``stick``.
"""
