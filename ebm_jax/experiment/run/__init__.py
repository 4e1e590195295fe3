"""Runs: their folders, checkpoints and processes; nothing here knows a recipe."""
