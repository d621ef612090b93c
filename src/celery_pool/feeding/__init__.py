"""How many calls become tasks: what the facades share."""
