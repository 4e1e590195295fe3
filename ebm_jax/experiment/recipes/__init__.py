"""Recipes: what a run trains, how, and how it is judged; one package or module each."""
