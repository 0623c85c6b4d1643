"""One run: its folder, its attempts, its loop."""
