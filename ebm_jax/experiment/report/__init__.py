"""Reports of runs: figures and a page in words, made from what the run folders hold.

A report can be made again from a folder's config.yaml, metrics.jsonl, result.json and samples/final.npz. What is
particular to a kind of experiment, its figures and findings, comes from the recipe.
"""

from ebm_jax.experiment.report.compare import compare_runs
from ebm_jax.experiment.report.page import write_run

__all__ = ["compare_runs", "write_run"]
