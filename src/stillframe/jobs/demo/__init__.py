"""The verb ``demo``: the main job, from beginning to end, on a disk made for it.

Answers: "does it work here, and how does it look?" A disk file with a Windows-like and a Linux volume is made, saved,
changed, saved again, verified, and restored onto a larger disk file full of old data; then programs that are not ours
compare the two. No disk of this machine is touched. It needs root, for loop devices and mounts.
"""

from stillframe.jobs.demo.story import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
