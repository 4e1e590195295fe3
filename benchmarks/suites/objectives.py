"""The objectives suite: updates of networks without chains. Its rows are those of the training suite."""

from benchmarks.suites.training import HEAD, run_task, show
from benchmarks.tasks.objectives import CPU_TASKS, GPU_TASKS

__all__ = ["HEAD", "TASKS", "run_task", "show"]

TASKS = {"cpu": CPU_TASKS, "gpu": GPU_TASKS}
