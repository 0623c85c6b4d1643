"""What lies in a dataset's folder."""
