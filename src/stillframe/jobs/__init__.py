"""One module per verb. ``plan_x()`` looks and decides, ``apply_x()`` does what the plan says and nothing else."""
