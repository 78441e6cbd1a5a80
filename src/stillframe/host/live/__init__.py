"""Holding mounted Linux file systems still: which blocks were written, the freeze, and who ends it in an emergency.

``trace`` tells what the kernel completed, ``ring`` reads its binary buffers, ``leaves`` says on which disk a device's
bytes lie, ``freezing`` freezes and thaws, ``watchdog`` thaws when this process cannot.
"""
