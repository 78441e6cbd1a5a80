"""Stillframe beside a limit and beside other tools, on disks that anybody can make: ``make bench``."""
