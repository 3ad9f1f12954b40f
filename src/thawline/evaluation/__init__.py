"""What is measured besides a task's metrics: similarity, transferability, corruptions."""
