"""Datasets written, whole or not at all."""
