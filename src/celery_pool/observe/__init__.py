"""Looking into a running pool, from its own process or from another one of the same user."""
