"""What ``bench`` is made of: reading a sample, working on it, writing to the repository's disk, and what follows."""
