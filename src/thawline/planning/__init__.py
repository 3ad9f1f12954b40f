"""What a run will be, before it starts: its settings, everything that can be wrong with them, its identity."""
