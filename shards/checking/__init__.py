"""Looking at datasets: damage, leaks, counts."""
