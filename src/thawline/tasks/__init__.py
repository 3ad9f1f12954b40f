"""Tasks: what a target is, and everything that follows from it."""
