"""This machine, the only place that knows the platform: disks, who uses them, targets held still, other programs."""
