"""Put keys: machines that add images and read none. Normative: ``docs/format/v1.md``, section 17.

``credential`` is what such a machine holds, ``sealing`` how its objects are sealed and opened, ``rules`` what they may
say. ``grants`` is the owner's side, ``warnings`` what the owner tells such machines, ``machine`` their own side.
"""
