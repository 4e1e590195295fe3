"""How the tasks of each suite are run and shown: each file has `TASKS` by device, `HEAD`, `run_task` and `show`."""
