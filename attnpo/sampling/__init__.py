"""One way to sample: prompts in; ids and finish reasons out."""
