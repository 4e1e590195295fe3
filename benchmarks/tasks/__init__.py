"""What is measured: each file holds a suite, its systems as plain NumPy, the same for every method."""
