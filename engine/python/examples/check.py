"""Runs the notebook and the example (`engine/python/check --notebook`)."""

import runpy
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent

notebook = nbformat.read(HERE / "states.ipynb", as_version=4)
NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(HERE)}}).execute()
cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
assert cells and all(cell.execution_count for cell in cells)
pictures = [
    output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})
]
assert len(pictures) >= 2, "the notebook draws two pictures"
print(f"{len(cells)} cells, {len(pictures)} pictures")
sys.argv = ["classify.py", "--lines", "400", "--workers", "2"]
runpy.run_path(str(HERE / "classify.py"), run_name="__main__")
