"""Executes the py:percent sources in this folder and writes each as an .ipynb with outputs: `make notebooks`.

python notebooks/_execute.py [block_gibbs.py …]

Notebooks run at full size and draw into their cells, whatever EBM_JAX_SMALL and MPLBACKEND say.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def sources() -> list[Path]:
    """Returns the sources of all notebooks: every .py file whose name does not start with an underscore."""
    return sorted(path for path in HERE.glob("*.py") if not path.name.startswith("_"))


def execute(source: Path) -> Any:
    """Executes a source and returns the notebook.

    Args:
      source: Path of a py:percent file.

    Returns:
      The notebook with the outputs of all cells. Its cell ids are fixed, and it records no times and no versions, so
      that only the outputs change from run to run.

    Raises:
      nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=600, record_timing=False, resources={"metadata": {"path": folder}}
        )
        client.execute()
    notebook.metadata = nbformat.from_dict({"kernelspec": dict(notebook.metadata["kernelspec"])})
    nbformat.validate(notebook)
    return notebook


def main() -> None:
    """Executes the sources that the command line names, or all of them."""
    for name in ("EBM_JAX_SMALL", "MPLBACKEND"):
        os.environ.pop(name, None)
    for source in [Path(name) for name in sys.argv[1:]] or sources():
        target = source.with_suffix(".ipynb")
        nbformat.write(execute(source), target)
        print(f"{target.name}: {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
