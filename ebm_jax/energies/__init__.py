"""Energy families: each file holds one, its energy and its conditionals."""
