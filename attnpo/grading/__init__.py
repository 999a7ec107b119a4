"""Is a response right? Math, multiple choice, programs; untrusted code runs in a sandbox."""
