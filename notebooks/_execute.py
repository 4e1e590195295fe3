"""Executes the py:percent sources beside it and writes each as an .ipynb with outputs: `make notebooks`.

python notebooks/_execute.py [block_gibbs.py …]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def sources() -> list[Path]:
    """Returns the notebooks' sources; files that start with an underscore are none."""
    return sorted(path for path in HERE.glob("*.py") if not path.name.startswith("_"))


def execute(source: Path) -> Any:
    """Returns the executed notebook; raises nbclient's CellExecutionError where a cell fails."""
    notebook = jupytext.read(source)
    # Nothing that changes from run to run but the outputs: no random cell ids, no times, no versions.
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
    """Executes what the command line names, or all."""
    for source in [Path(name) for name in sys.argv[1:]] or sources():
        target = source.with_suffix(".ipynb")
        nbformat.write(execute(source), target)
        print(f"{target.name}: {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
