"""What is minimised: samples in, micro-batches and their losses out."""
