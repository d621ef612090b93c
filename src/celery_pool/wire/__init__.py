"""What travels between the processes: functions, errors, and what pickles them."""
