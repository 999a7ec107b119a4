"""Reinforcement learning on TRL: the trainer, and the run of one method and seed."""
