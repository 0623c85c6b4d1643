"""WebDataset shards in and out: knows nothing of trainers."""
