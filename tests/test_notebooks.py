"""The notebooks as they are committed: short, executed, quiet, and in step with the code they show.

They are executed by notebooks/execute.py, which CI runs; here they are only read.
"""
import ast
import importlib
import inspect
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", re.DOTALL)
MACHINE = re.compile(r"/(tmp|home|root|work|Users|usr|opt|content)/|[A-Z]:\\|site-packages")
every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name[:1])


def cells_of(path, kind=None):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if kind in (None, cell["cell_type"])]


def text(lines):
    return "".join(lines)


def printed(cell):
    return "".join(text(o["text"]) for o in cell["outputs"] if o["output_type"] == "stream")


def figures(cell):
    return [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]


def file_of(module):
    return (ROOT / module.replace(".", "/")).with_suffix(".py")


def project_modules(path):
    """The project's files that a notebook imports, by name."""
    names = set()
    for cell in cells_of(path, "code"):
        for node in ast.walk(ast.parse(text(cell["source"]))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if file_of(name).exists()}


def test_there_are_five_and_the_page_about_them_names_each():
    page = (ROOT / "notebooks/README.md").read_text(encoding="utf-8")
    assert [path.name[:2] for path in PATHS] == ["1_", "2_", "3_", "4_", "5_"]
    for path in PATHS:
        assert f"({path.name})" in page
    for link in re.findall(r"\]\(([^)#:]+)\)", page):
        assert (ROOT / "notebooks" / link).exists(), link


@every_notebook
def test_it_is_short_and_shows_a_figure_early(path):
    cells = cells_of(path)
    assert len(cells) <= 30 and path.stat().st_size < 300_000
    assert any(figures(cell) for cell in cells[:4])


@every_notebook
def test_it_is_executed_in_order_without_errors(path):
    code = cells_of(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        assert cell["outputs"], "a cell shows nothing:\n" + text(cell["source"])
        for output in cell["outputs"]:
            assert output["output_type"] != "error" and output.get("name") != "stderr", output
            assert "Warning" not in text(output.get("text", ""))


@every_notebook
def test_nothing_of_the_machine_that_ran_it_is_left(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"}}
    folded = {"cellView": "form", "jupyter": {"source_hidden": True}}  # the set-up's code
    for number, cell in enumerate(notebook["cells"], 1):
        assert cell["metadata"] == (folded if number == 2 else {})
        shown = text(cell["source"]) + (printed(cell) if cell["cell_type"] == "code" else "")
        assert not MACHINE.search(shown), MACHINE.search(shown)


@every_notebook
def test_every_claim_is_asserted_in_the_next_cell(path):
    cells = cells_of(path)
    for cell, following in zip(cells, cells[1:] + [None]):
        if cell["cell_type"] == "markdown" and "**Claim" in text(cell["source"]):
            assert following["cell_type"] == "code" and "assert" in text(following["source"])
    claims = sum("**Claim" in text(cell["source"]) for cell in cells)
    assert claims >= 5


@every_notebook
def test_it_redefines_nothing_of_the_project(path):
    ours = set()
    for name in project_modules(path):
        ours |= {node.name for node in ast.parse(file_of(name).read_text(encoding="utf-8")).body
                 if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for cell in cells_of(path, "code"):
        defined = {node.name for node in ast.walk(ast.parse(text(cell["source"])))
                   if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        assert not defined & ours


@every_notebook
def test_the_code_it_shows_is_the_present_code(path):
    modules = [importlib.import_module(name) for name in sorted(project_modules(path))]
    for cell in cells_of(path, "code"):
        for name in re.findall(r"getsource\(([\w.]+)\)", text(cell["source"])):
            name = name.split(".")[-1]
            thing = next(getattr(module, name) for module in modules if hasattr(module, name))
            assert inspect.getsource(thing) in printed(cell), \
                f"{name} has changed: python notebooks/execute.py --write"


@every_notebook
def test_its_figures_have_titles_and_labels(path):
    for cell in cells_of(path, "code"):
        if figures(cell):
            assert re.search(r"title", text(cell["source"]))
            assert re.search(r"label", text(cell["source"]))


def test_all_start_with_the_same_setup_and_name_one_address():
    setups = {text(cells_of(path)[1]["source"]) for path in PATHS}
    assert len(setups) == 1 and setups.pop().startswith("#@title Set-up")  # what is seen of it
    assert all(text(cell["source"]).count("https://") == (i == 1)
               for path in PATHS for i, cell in enumerate(cells_of(path)))


def test_the_exercises_have_solutions_that_check_themselves():
    """execute.py runs them."""
    found = [code for path in PATHS for cell in cells_of(path, "markdown")
             for code in SOLUTION.findall(text(cell["source"]))]
    assert len(found) >= 3
    for code in found:
        assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(code)))
