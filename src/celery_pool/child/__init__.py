"""What runs in the child processes, and what they and the parent agree on."""
