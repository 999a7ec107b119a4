"""Numbers in, numbers out: measures, bootstrap intervals, estimates. No files."""
