"""Markdown tables, read."""

from __future__ import annotations


def table_of(text: str) -> dict[str, dict[str, str]]:
    """Rows by their first cell, cells by their column's heading."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}
