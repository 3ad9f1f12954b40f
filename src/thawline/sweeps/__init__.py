"""Sweeps: which runs a grid consists of, where they run, and what became of them."""
