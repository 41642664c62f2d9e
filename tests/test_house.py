"""The house rules that a machine can check: who imports whom, sizes, lengths, links, encodings."""
import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ("lpo", "model", "decoder", "tasks", "train_toy")


def files(pattern):
    """Those of the project: none that a program has written, or that only this machine has."""
    return [path for path in ROOT.rglob(pattern) if not any(
        part.startswith(".") or part in ("out", "build") for part in path.relative_to(ROOT).parts)]


FILES = files("*.py")
KIT = {path.stem for path in (ROOT / "conformance").glob("*.py")}  # imported by these names
OURS = {*CORE, *KIT, "toy", "fast", "real", "playground", "results", "tests", "conformance",
        "notebooks", "test_lpo"}
RUN_TIME = {"torch", "numpy", "tiktoken", "matplotlib"}
MAY_IMPORT = {  # a file or a folder: what of ours, and which packages
    "lpo.py": (set(), {"torch"}),
    "model.py": (set(), {"torch", "transformers"}),
    "decoder.py": ({"lpo"}, {"torch"}),
    "tasks.py": (set(), {"tiktoken"}),
    "train_toy.py": ({"lpo", "decoder", "tasks", "toy"}, {"torch", "numpy"}),
    "fast": ({"lpo", "model", "decoder", "fast"}, {"torch", "triton"}),
    "toy": ({"lpo", "model", "decoder", "tasks", "toy", "fast"}, {"torch", "numpy", "matplotlib"}),
    "real": ({*CORE, "toy", "real"}, {*RUN_TIME, "transformers"}),
    "playground": ({*CORE, "toy", "playground"}, {"torch", "numpy"}),
    "conformance/adapters": ({*CORE, *KIT, "toy"}, {"torch", "numpy", "jax", "transformers", "trl",
                                                    "trl_style", "safetensors"}),
    "conformance": (KIT, {"numpy"}),
    "notebooks/exercises": ({"decoder", "tasks", "toy", "notebooks", "runner"},
                            {"torch", "numpy"})}


def place(path):
    """The file, or the innermost folder around it, that MAY_IMPORT has; or None."""
    names = [path.relative_to(ROOT).as_posix(),
             *(folder.as_posix() for folder in path.relative_to(ROOT).parents)]
    return next((name for name in names if name in MAY_IMPORT), None)


def imports(path):
    """Modules that a file imports, lazy ones too, the standard library aside."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}


@pytest.mark.parametrize("path", [path for path in FILES if place(path)],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_its_place_may(path):
    """Lazily too. Bug: the oracle imports what it checks."""
    ours, packages = MAY_IMPORT[place(path)]
    found = {name.split(".")[0] for name in imports(path)}
    assert found & OURS <= ours and found - OURS <= packages


def test_the_imports_make_no_circle():
    """Lazy ones neither. Each module imports modules that come before it in some order."""
    edges = {".".join(path.relative_to(ROOT).with_suffix("").parts): imports(path)
             for path in FILES if path.parent.name in (ROOT.name, "toy", "fast", "real", "results")}
    edges["fast.generate"] -= {"fast.compiled", "fast.compiled.Compiled"}  # where triton is used
    done = set()
    while len(done) < len(edges):
        ready = {name for name, needs in edges.items() if needs & edges.keys() <= done} - done
        assert ready, f"a circle among {sorted(edges.keys() - done)}"
        done |= ready


def test_six_files_at_the_top_and_lpo_in_a_hundred_lines():
    assert sorted(path.stem for path in ROOT.glob("*.py")) == sorted([*CORE, "test_lpo"])
    for name, most in (("lpo.py", 100), ("train_toy.py", 250)):
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= most
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'py-modules = ["lpo"]' in project


def test_lines_have_at_most_100_columns():
    scripts = [path for kind in ("*.js", "*.css") for path in (ROOT / "playground").glob(kind)]
    long = [f"{path.relative_to(ROOT)}:{number}" for path in [*FILES, *scripts] for number, line in
            enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if len(line) > 100]
    assert not long


def calls():
    """(path, call) of every call in the files."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield path, node


def test_text_is_read_and_written_with_an_encoding():
    """Windows has another one by default."""
    for path, node in calls():
        if getattr(node.func, "attr", None) in ("read_text", "write_text"):
            assert "encoding" in {k.arg for k in node.keywords}, f"{path.name}:{node.lineno}"


def test_nothing_runs_text_or_opens_a_connection():
    """No eval, exec, pickle or shell, torch.load with weights only, no network."""
    packages = set("pickle marshal shelve dill socket ssl urllib http requests".split())
    product = [path for path in FILES if path.name.partition(".")[0] in CORE or path.parent.name in
               ("toy", "fast", "real")]
    for path, node in calls():
        if path in product:
            where, keywords = f"{path.name}:{node.lineno}", {k.arg: k.value for k in node.keywords}
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            builtin = isinstance(node.func, ast.Name) and name in ("eval", "exec", "__import__")
            assert not builtin and name not in ("system", "popen"), where
            assert "shell" not in keywords, where
            if ast.unparse(node.func) == "torch.load":
                assert keywords["weights_only"].value is True, where
    for path in product:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {alias.name.split(".")[0] for node in ast.walk(tree)
                   if isinstance(node, ast.Import) for alias in node.names}
        assert not packages & modules, path


def test_links_lead_somewhere():
    """Pages in out/, which programs write, aside."""
    for page in files("*.md"):
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.relative_to(ROOT)}: {link}"


@pytest.mark.parametrize("folder", ["toy", "fast", "real"])
def test_a_folder_names_its_files(folder):
    listed = (ROOT / folder / "__init__.py").read_text(encoding="utf-8")
    for path in (ROOT / folder).glob("*.py"):
        assert path.name in listed or path.name == "__init__.py", path
