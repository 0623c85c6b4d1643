"""Whether this machine, or every node of a job, can carry a run. `examine.examine` is for launchers."""
