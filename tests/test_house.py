"""The house rules that a machine can check: who imports whom, and how long a page is."""
import ast
import re
import sys
from pathlib import Path

import pytest

import report

ROOT = Path(__file__).parent.parent
READING_ORDER = ("lpo", "model", "decoder", "tasks", "options", "stages", "pretrain", "evaluate",
                 "intervals", "plots", "train_toy")
LAZY = {"gpt2_weights", "cache"}  # what model.py imports where it is wanted
ALLOWED = {"lpo": {"torch"}, "model": {"torch"} | LAZY, "decoder": {"torch", "lpo"},
           "tasks": {"numpy", "tiktoken"}, "plots": {"numpy", "matplotlib"}}
PAGES = [path for path in ROOT.rglob("*.py")
         if not any(part.startswith(".") or part in ("out", "build")
                    for part in path.relative_to(ROOT).parts)]


def imports(path):
    """Packages and files that a page imports, the standard library aside."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names


@pytest.mark.parametrize("name", READING_ORDER)
def test_a_file_imports_only_from_files_above_it(name):
    found = imports(ROOT / f"{name}.py")
    assert found <= ALLOWED.get(name, found)
    later = READING_ORDER[READING_ORDER.index(name):]
    assert not found & set(later)
    packages = found - set(READING_ORDER) - LAZY
    assert packages <= {"torch", "numpy", "tiktoken", "matplotlib"}


def test_pages_are_short():
    lengths = {name: len((ROOT / f"{name}.py").read_text().splitlines())
               for name in ("lpo", "model", "decoder", "tasks", "train_toy")}
    assert lengths["lpo"] <= 115 and sum(lengths.values()) < 1000, lengths
    for path in PAGES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert len(line) <= 100, f"{path.name}:{number}"


@pytest.mark.parametrize("page", ["README.md", "RESULTS.md"])
def test_pages_have_the_numbers_of_the_results(page):
    """Rebuilt by report.py --write, never typed by hand."""
    results, sweeps = (report.load(ROOT / "figures" / name)
                       for name in ("results.json", "ablations.json"))
    text = (ROOT / page).read_text()
    assert report.filled(text, results, sweeps) == text
    assert len(report.MARK.findall(text)) == text.count("<!-- end -->") > 2
    assert results["config"]["base_seeds"] >= 3 and results["config"]["seeds"] >= 5


def test_the_readme_names_what_is_there():
    readme = (ROOT / "README.md").read_text()
    for link in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / link).exists(), link
    for name in READING_ORDER:
        assert f"[{name}.py]({name}.py)" in readme
