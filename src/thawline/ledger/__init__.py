"""Runs on disk: who runs which, where each number comes from, whether it still holds."""
