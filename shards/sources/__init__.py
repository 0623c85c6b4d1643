"""Where samples come from: folders, zips, tables."""
