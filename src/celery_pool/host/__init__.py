"""What the operating system says of this machine and process."""
