"""The front door: the `erasediff` command."""
