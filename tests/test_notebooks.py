"""The notebooks as committed: executed, quiet, in step with the code that they show.

`pytest --nbmake notebooks/*.ipynb` executes them. Here they are read, and their solutions executed.
"""
import ast
import importlib
import inspect
import json
import re
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", re.DOTALL)
MACHINE = re.compile(r"/(tmp|home|root|work|Users|usr|opt|content)/|[A-Z]:\\|site-packages")
every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name.split("_")[0])


def cells_of(path, kind=None):
    """Cells whose source is one text."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells
            if kind in (None, cell["cell_type"])]


def printed(cell):
    return "".join("".join(o["text"]) for o in cell["outputs"] if o["output_type"] == "stream")


def solutions(path):
    return [code for cell in cells_of(path, "markdown")
            for code in SOLUTION.findall(cell["source"])]


def project_modules(path):
    """The project's modules that a notebook imports."""
    names = set()
    for cell in cells_of(path, "code"):
        for node in ast.walk(ast.parse(cell["source"])):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return [importlib.import_module(name) for name in sorted(names)
            if (ROOT / name.replace(".", "/")).with_suffix(".py").exists()]


def test_the_page_about_them_names_each_and_its_links_exist():
    page = (ROOT / "notebooks/README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", page)
    assert len(PATHS) == 6 and {path.name for path in PATHS} <= set(links)
    for path in PATHS:
        links += [link for cell in cells_of(path, "markdown")
                  for link in re.findall(r"\]\(([^)#:]+\.\w+)\)", cell["source"])]
    assert all((ROOT / "notebooks" / link).exists() for link in links)


@every_notebook
def test_it_is_executed_in_order_and_quiet(path):
    code = cells_of(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        assert cell["outputs"], "a cell shows nothing:\n" + cell["source"]
        for output in cell["outputs"]:
            assert output["output_type"] != "error" and output.get("name") != "stderr", output
        assert "Warning" not in printed(cell)
        found = MACHINE.search(cell["source"] + printed(cell))
        assert not found, found
    assert path.stat().st_size < 300_000


@every_notebook
def test_every_claim_is_asserted_in_the_next_cell(path):
    cells = cells_of(path)
    claims = [i for i, cell in enumerate(cells) if "**Claim" in cell["source"]]
    assert len(claims) >= 3
    for i in claims:
        assert cells[i + 1]["cell_type"] == "code" and "assert" in cells[i + 1]["source"]


@every_notebook
def test_it_redefines_nothing_of_the_project_and_shows_present_code(path):
    modules = project_modules(path)
    ours = {name for module in modules for name, x in vars(module).items()
            if (inspect.isfunction(x) or inspect.isclass(x)) and x.__module__ == module.__name__}
    for cell in cells_of(path, "code"):
        defined = {node.name for node in ast.walk(ast.parse(cell["source"]))
                   if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        assert not defined & ours
        for name in re.findall(r"getsource\(([\w.]+)\)", cell["source"]):
            first, *rest = [part for part in name.split(".") if part != "lpo"]
            thing = next(vars(module)[first] for module in modules if first in vars(module))
            for part in rest:
                thing = getattr(thing, part)
            assert inspect.getsource(thing) in printed(cell), f"{name} has changed: execute it anew"


def test_all_start_with_the_same_setup():
    setups = [cells_of(path)[1] for path in PATHS]
    assert len({cell["source"] for cell in setups}) == 1
    for cell in setups:
        assert cell["source"].startswith("#@title Set-up") and "SEED = 0 " in cell["source"]
        assert cell["metadata"]["jupyter"]["source_hidden"]


@every_notebook
def test_the_solutions_of_its_exercises_run(path, monkeypatch):
    """Each assert in them holds, after the set-up and the cells' imports.

    In a clean checkout notebook 4 takes a minute: its set-up trains the base model and keeps it in
    out/, where `--nbmake` finds it.
    """
    if not solutions(path):
        pytest.skip("no exercises")
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("MPLBACKEND", "agg")
    cells, module = cells_of(path, "code"), {}
    with matplotlib.rc_context():
        exec(cells[0]["source"], module)
    for cell in cells[1:]:
        imports = [node for node in ast.parse(cell["source"]).body
                   if isinstance(node, (ast.Import, ast.ImportFrom))]
        exec("\n".join(map(ast.unparse, imports)), module)
    exec("taus = cfg.choices\ngen, rng = files.randomness('cpu', 'solutions', SEED)", module)
    for code in solutions(path):
        assert "assert" in code
        exec(code, module)
