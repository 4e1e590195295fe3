"""The `ebm-jax` command."""
