"""Optimizers, schedules, learning rates by depth, and the exact solution of a linear probe."""
