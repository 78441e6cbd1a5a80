"""What is inside images and disks: volumes, systems, files, how they start."""
