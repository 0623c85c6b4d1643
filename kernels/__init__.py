"""Fused arithmetic on flat gradient shards: knows nothing of trainers or data."""
