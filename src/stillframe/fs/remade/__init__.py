"""Volumes made anew at another size, for file systems that no tool resizes: FAT and exFAT."""

from stillframe.fs.remade.exfat import RemadeExfat, read_exfat
from stillframe.fs.remade.fat import RemadeFat, read_fat
from stillframe.fs.remade.moved import Moved, show_moved

__all__ = ["Moved", "RemadeExfat", "RemadeFat", "read_exfat", "read_fat", "show_moved"]
