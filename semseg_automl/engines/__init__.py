"""Where the work of a search runs."""
