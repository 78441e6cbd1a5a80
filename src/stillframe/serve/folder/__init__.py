"""An image as a folder (FUSE): disk files, and folders that lie elsewhere, under names of their own."""

from stillframe.serve.folder.hidden import serve_hidden
from stillframe.serve.folder.operations import DiskFile, Reported, ShownFolder
from stillframe.serve.folder.serving import ServedFolder, serve_folder

__all__ = ["DiskFile", "Reported", "ServedFolder", "ShownFolder", "serve_folder", "serve_hidden"]
