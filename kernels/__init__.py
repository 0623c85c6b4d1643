"""Fused arithmetic on flat gradient partitions: knows nothing of trainers or data."""
