"""What a restore and a clone are made of: wishes, the plan and its reasons, resizing on copies, writing, tables."""
