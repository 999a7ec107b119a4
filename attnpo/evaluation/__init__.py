"""Evaluation through lm-eval with exact token counts, and what is kept of each response."""
