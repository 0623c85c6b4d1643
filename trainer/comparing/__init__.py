"""`erasediff compare`: methods side by side."""
