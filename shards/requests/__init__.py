"""Erasure requests: which samples they name, and the split they ask for."""
