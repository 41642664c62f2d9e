"""The house rules that a machine can check: who imports whom, lengths, what pages say."""
import ast
import io
import re
import sys
import tokenize
from pathlib import Path

import pytest

from results import tables
from toy import rows

ROOT = Path(__file__).parent.parent
CORE = ("lpo", "model", "decoder", "tasks", "train_toy")
PAGES = [path for path in ROOT.rglob("*.py")
         if not any(part.startswith(".") or part in ("out", "build")
                    for part in path.relative_to(ROOT).parts)]
TOY, FAST, REAL, PLAYGROUND = "toy", "fast", "real", "playground"
EXERCISES = "notebooks/exercises"
KIT = {path.stem for path in (ROOT / "conformance").glob("*.py")}  # imported by these names
OURS = {*CORE, TOY, FAST, REAL, PLAYGROUND, *KIT, "results", "tests", "conformance", "notebooks",
        "test_lpo"}
RUN_TIME = {"torch", "numpy", "tiktoken", "matplotlib"}
MAY_IMPORT = {  # a page or a folder: what of ours, and which packages
    "lpo.py": (set(), {"torch"}),
    "model.py": ({FAST}, {"torch", "transformers"}),  # both where they are needed, not at the top
    "decoder.py": ({"lpo"}, {"torch"}),
    "tasks.py": (set(), {"tiktoken"}),
    "fast": ({"lpo", "decoder", FAST}, {"torch"}),
    "fast/compiled.py": ({"lpo", FAST}, {"torch", "triton"}),  # which torch's GPU builds bring
    "toy": ({"lpo", "model", "decoder", "tasks", TOY, FAST}, {"torch", "numpy", "matplotlib"}),
    "train_toy.py": ({"lpo", "model", "decoder", "tasks", TOY, FAST}, {"torch", "numpy"}),
    "real": ({*CORE, TOY, FAST, REAL}, {"torch", "numpy", "transformers"}),
    "playground": ({*CORE, TOY, PLAYGROUND}, {"torch", "numpy"}),
    "results": ({*CORE, TOY, FAST, REAL, "results"}, {*RUN_TIME, "transformers"}),
    EXERCISES: ({"notebooks", *KIT}, {"numpy"}),  # its judges never see lpo.py
    f"{EXERCISES}/harness.py": ({"notebooks", *KIT, "lpo", "tasks", TOY}, {"numpy", "torch"}),
    **{f"{EXERCISES}/{folder}{page}": (ours, packages) for folder in ("", "solutions/")
       for page, ours, packages in (("09_task_of_your_own.py", {"tasks"}, set()),
                                    ("11_sampler_setting.py", {"lpo"}, {"torch"}))},
}


def place(path):
    """The page, or the innermost folder around it, that MAY_IMPORT has; or None."""
    names = [path.relative_to(ROOT).as_posix(),
             *(folder.as_posix() for folder in path.relative_to(ROOT).parents)]
    return next((name for name in names if name in MAY_IMPORT), None)


def imports(path, top_only=False):
    """Packages and files that a page imports, the standard library aside."""
    tree, names = ast.parse(path.read_text(encoding="utf-8")), set()
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names


def code_lines(path):
    """Lines that hold code: blank lines, comments and docstrings do not count."""
    lines, at_start = set(), True
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            at_start = True
        elif token.type == tokenize.STRING and at_start:
            continue  # a docstring
        elif token.type not in nothing:
            at_start = False
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines)


def test_six_files_at_the_top():
    top = sorted(path.name for path in ROOT.glob("*.py"))
    assert top == sorted([*(f"{name}.py" for name in CORE), "test_lpo.py"])


@pytest.mark.parametrize("path", [path for path in PAGES if place(path)],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_imports_only_what_its_place_may(path):
    ours, packages = MAY_IMPORT[place(path)]
    found = imports(path)
    assert found & OURS <= ours
    assert found - OURS <= packages


def test_model_needs_neither_fast_nor_transformers_to_be_imported():
    assert imports(ROOT / "model.py", top_only=True) == {"torch"}


def test_the_imports_make_no_circle():
    """Each page below the top imports pages that come before it in some order."""
    edges = {}
    for path in PAGES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        edges[name] = set()
        for node in tree.body:  # what is imported later, where it is needed, makes no circle
            if isinstance(node, ast.Import):
                edges[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                edges[name] |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    done = set()
    while len(done) < len(edges):
        ready = {name for name, needs in edges.items() if needs & edges.keys() <= done} - done
        assert ready, f"a circle among {sorted(edges.keys() - done)}"
        done |= ready


def test_pages_are_short():
    lengths = {name: code_lines(ROOT / f"{name}.py") for name in CORE}
    assert lengths["lpo"] <= 116 and sum(lengths.values()) < 1000, lengths
    assert sum(code_lines(path) for path in (ROOT / REAL).glob("*.py")) < 500
    scripts = [path for kind in ("*.js", "*.css") for path in (ROOT / PLAYGROUND).glob(kind)]
    for path in [*PAGES, *scripts]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert len(line) <= 100, f"{path.name}:{number}"


def test_text_is_read_and_written_with_an_encoding():
    """Windows has another one by default: a page would get wrong signs."""
    for path in PAGES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", None) in (
                    "read_text", "write_text"):
                given = {keyword.arg for keyword in node.keywords}
                assert "encoding" in given, f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.parent.name)
def test_pages_have_the_numbers_of_the_results(page):
    """Rebuilt by results.tables --write, never typed by hand."""
    data = [rows.load(tables.DATA / name) for name in tables.FILES]
    results, _, rivals, *_ = data
    text = page.read_text(encoding="utf-8")
    assert tables.filled(text, *data) == text
    assert len(tables.MARK.findall(text)) == text.count("<!-- end -->") > 2
    for of in (results, rivals):
        assert of["config"]["base_seeds"] >= 3 and of["config"]["seeds"] >= 5


def test_links_lead_somewhere():
    for page in ROOT.rglob("*.md"):
        if any(part.startswith(".") for part in page.relative_to(ROOT).parts):
            continue
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.relative_to(ROOT)}: {link}"


def test_the_readme_and_the_folders_name_what_is_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in CORE:
        assert f"[{name}.py]({name}.py)" in readme
    for folder, kind in ((TOY, "*.py"), (FAST, "*.py"), (REAL, "*.py"), ("results", "*.py"),
                         (PLAYGROUND, "*.*")):
        listed = (ROOT / folder / "__init__.py").read_text(encoding="utf-8")
        for path in (ROOT / folder).glob(kind):
            assert path.name in listed or path.name == "__init__.py", path
    listed = (ROOT / EXERCISES / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / EXERCISES).glob("*.py"):
        assert path.name in listed, path
        solution = path.parent / "solutions" / path.name
        assert solution.exists() == path.name[:2].isdigit(), solution
