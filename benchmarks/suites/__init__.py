"""Running and printing the tasks of each suite. Each file has `TASKS` by device, `HEAD`, `run_task` and `show`."""
