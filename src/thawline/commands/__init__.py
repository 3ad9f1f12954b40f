"""What the command line and the Python interface share: from overrides and names to runs and sweeps."""
