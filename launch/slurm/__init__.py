"""Commands on the nodes of a SLURM cluster: submitted and left, watched, stopped, continued. No torch here."""
