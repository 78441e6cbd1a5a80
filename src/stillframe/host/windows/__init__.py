"""What Windows tells of its disks, and how its volumes are held still. Written from documentation, not run there yet.

Every module but ``calls`` and ``com`` is plain arithmetic on bytes and records, the same on every system.
"""
