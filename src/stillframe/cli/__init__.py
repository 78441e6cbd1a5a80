"""The command line, a front door: it parses, calls one job, and draws the job's events. It decides nothing."""
