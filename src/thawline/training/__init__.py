"""What one fit is made of: the Lightning module, its batches, selection on validation, the freeze contract."""
