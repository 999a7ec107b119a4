"""Which heads are Key-Focus Heads: labels of steps, the probe, studies of the heads."""
