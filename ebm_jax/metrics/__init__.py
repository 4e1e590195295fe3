"""Measures of how well a model fits data."""

from ebm_jax.metrics.likelihood import pseudo_log_likelihood, reconstruction_error

__all__ = ["pseudo_log_likelihood", "reconstruction_error"]
