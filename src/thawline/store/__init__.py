"""Arrays by sample on disk: values at the thaw line and decoded images, shared by all runs of a sweep."""
