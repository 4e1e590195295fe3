"""Markov kernels: each file holds one algorithm."""
