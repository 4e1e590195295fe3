"""The measured systems: each file holds a suite, with systems in plain NumPy that are the same for every method."""
