"""Executes the notebooks in order, from scratch; fails on an error or on a missing output.

    python notebooks/execute.py            what CI runs; the committed files stay as they are
    python notebooks/execute.py --write    the same, and the new outputs go into the files
    python notebooks/execute.py 3 4        some of them
    python notebooks/execute.py --workers 2   two at a time

The solutions of the exercises run too, pasted behind the last cell; they are never written.
"""
import argparse
import base64
import copy
import io
import json
import multiprocessing
import re
import sys
import time
from pathlib import Path

import nbclient
import nbformat
from PIL import Image  # matplotlib needs it anyway

HERE = Path(__file__).resolve().parent
NOTEBOOKS = sorted(HERE.glob("[1-9]_*.ipynb"))
SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", re.DOTALL)
PROGRESS = re.compile(r"(\[\d+/\d+\] .*\n)+")  # of a base model that had to be made
NOISE = re.compile(r"Warning:|Traceback|\x1b\[|^\d+%\|", re.MULTILINE)
METADATA = dict(kernelspec=dict(display_name="Python 3", language="python", name="python3"),
                language_info=dict(name="python"))
# of the set-up cell, the second: its code is folded away, in Jupyter and VS Code, and in Colab
FOLDED = dict(cellView="form", jupyter=dict(source_hidden=True))


def solutions(notebook):
    """The Python code in the hidden solutions, one text an exercise."""
    return [code for cell in notebook.cells if cell.cell_type == "markdown"
            for code in SOLUTION.findall(cell.source)]


def executed(notebook):
    """A copy with the outputs of a fresh kernel, and the seconds with and without the solutions.
    nbclient raises on the first error."""
    fresh, start, times = copy.deepcopy(notebook), time.monotonic(), []
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    length = len(fresh.cells)
    fresh.cells += map(nbformat.v4.new_code_cell, solutions(notebook))
    client = nbclient.NotebookClient(
        fresh, timeout=600, kernel_name="python3", record_timing=False,
        resources={"metadata": {"path": HERE}},
        on_cell_complete=lambda cell, cell_index: times.append((cell_index, time.monotonic())))
    client.execute()
    del fresh.cells[length:]
    return fresh, times[-1][1] - start, max(t for i, t in times if i < length) - start


def small(png):
    """The same picture, as base64, with a palette of 128 colours: a third of the bytes."""
    picture, file = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    picture.quantize(128, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode() + "\n"


def tidy(notebook):
    """Prints of one cell joined; nothing kept of the machine that ran it, or of its progress."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells, 1):
        cell.metadata = nbformat.from_dict(FOLDED if number == 2 else {})
        if cell.cell_type != "code":
            continue
        joined = []
        for output in cell.outputs:
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = small(output.data["image/png"])
            if output.output_type == "stream" and joined and joined[-1].get("name") == output.name:
                joined[-1].text += output.text
            elif output.get("name") == "stderr" and PROGRESS.fullmatch(output.text):
                continue
            else:
                joined.append(output)
        cell.outputs = joined
    return notebook


def figures(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def complaints(notebook, committed):
    """What must not be in an executed notebook, and what the committed one has more."""
    for number, (cell, before) in enumerate(zip(notebook.cells, committed.cells), 1):
        if cell.cell_type != "code":
            continue
        if not cell.outputs:
            yield f"cell {number} shows nothing"
        if figures(cell) < figures(before):
            yield f"cell {number} lacks a figure that it had"
        for output in cell.outputs:
            text = json.dumps(output)
            if output.output_type == "error" or output.get("name") == "stderr":
                yield f"cell {number}: {text[:300]}"
            elif output.output_type == "stream" and NOISE.search(output.text):
                yield f"cell {number} has noise: {output.text[:300]}"


def do(given):
    """Execute one notebook, and write it if that is wanted and nothing is wrong.  -> its report,
    is something wrong?"""
    path, keep = given
    notebook = nbformat.read(path, as_version=4)
    try:
        fresh, whole, seconds = executed(notebook)
    except nbclient.exceptions.CellExecutionError as error:
        found = re.sub(r"\x1b\[[\d;]*m", "", error.traceback).splitlines()[-12:]
        return "\n  ".join([f"{path.name}: failed", *found]), True
    found = list(complaints(tidy(fresh), notebook))
    extra = f" and its solutions {whole - seconds:.0f} s" if solutions(notebook) else ""
    if keep and not found:
        nbformat.write(fresh, path)
    return "\n  ".join([f"{path.name}: {seconds:.0f} s{extra}", *found]), bool(found)


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", help="1 to 5; none: all")
    parser.add_argument("--write", action="store_true", help="keep the outputs in the files")
    parser.add_argument("--workers", type=int, default=1, help="notebooks at a time (%(default)s)")
    args = parser.parse_args(argv)
    chosen = [path for path in NOTEBOOKS if not args.numbers or path.name[0] in args.numbers]
    failed = not chosen
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        for report, wrong in pool.imap(do, [(path, args.write) for path in chosen], chunksize=1):
            print(report, flush=True)
            failed = failed or wrong
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
