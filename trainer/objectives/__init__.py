"""What is minimised: batches in, losses out."""
