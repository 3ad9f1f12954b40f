"""Tasks: the Lightning modules, the data they read, and the contract that every fit is held to."""
