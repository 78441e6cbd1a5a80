"""Disks as network block devices: ``nbd_server`` serves them while its block runs."""

from stillframe.serve.nbd.addresses import TlsFiles
from stillframe.serve.nbd.exports import Export
from stillframe.serve.nbd.server import NbdServer, nbd_server

__all__ = ["Export", "NbdServer", "TlsFiles", "nbd_server"]
