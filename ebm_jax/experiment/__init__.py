"""Runs from the command line: recipes, configuration, checkpoints and logs."""
