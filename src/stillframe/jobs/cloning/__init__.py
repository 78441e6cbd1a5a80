"""What ``clone`` is made of: its plan in words, and a disk that stands for an image of itself."""
