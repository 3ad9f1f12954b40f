"""The process that runs are in: signals, memory, cores, the time."""
