"""An image as a disk for other programs: a network block device, a folder."""
