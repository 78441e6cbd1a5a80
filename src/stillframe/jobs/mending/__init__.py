"""What ``boot-repair`` is made of: looking at how a disk starts, mending it on a copy, and the way back."""
