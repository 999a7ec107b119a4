"""Profiles, the plan of runs behind a table, how they are run and where they are kept."""
