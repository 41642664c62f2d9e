"""Plants small mechanical mistakes all over the code, and prints those that no test notices.

    python -m tests.mutate --map                       which test touches which line (minutes)
    python -m tests.mutate --remap                     the same of test files newer than the map
    python -m tests.mutate lpo.py decoder.py           every mutant of two files
    python -m tests.mutate lpo.py:40 toy/rows.py:31    of two lines
    python -m tests.mutate --sample 200 toy results    of folders, 200 by chance

A mutant is one slip: a comparison, constant, sign, index or operator changed, an argument dropped,
two swapped, a condition turned round. It is tried with the tests that touch its line, quickest
first, up to --seconds of them: what survives may still be caught by slower ones. Some survivors
mean the same as the code; only a reader can tell. Needs pytest-cov for the map.
"""
import argparse
import ast
import functools
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from multiprocessing.connection import wait
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAP = ROOT / "out" / "mutate.json"
COPIED = ("*.py", "*.md", "pyproject.toml", "CITATION.cff", "tests", "toy", "fast", "results",
          "conformance", "notebooks", "real")
COSMETIC = ("lw", "ms", "size", "figsize", "fontsize", "dpi", "capsize", "elinewidth", "pad",
            "ncols", "columnspacing", "handlelength", "alpha", "zorder", "rotation", "width",
            "height", "va", "ha", "color", "ls", "marker", "layout", "help", "file", "flush", "end",
            "encoding", "indent", "fc", "boxstyle", "weight", "family", "prog", "metavar")
COMPARISONS = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=",
               ast.NotEq: "==", ast.In: "not in", ast.NotIn: "in", ast.Is: "is not",
               ast.IsNot: "is"}
OPERATORS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*",
             ast.Mod: "*", ast.Pow: "*", ast.BitAnd: "|", ast.BitOr: "&"}
SYMMETRIC = ("max", "min", "equal", "array_equal", "promote_types",
             "transpose")  # in their arguments


# --- the mutants of a file ------------------------------------------------------------------------


def nodes(tree):
    """What may be mutated: no text, no annotations, nothing under `if __name__`."""
    def walk(node):
        if isinstance(node, (ast.JoinedStr, ast.Raise, ast.Assert)):
            return
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
            return
        yield node
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.keyword) and child.arg in COSMETIC:
                    continue
                if isinstance(child, ast.AST):
                    yield from walk(child)
    yield from walk(tree)


def changes(node):
    """Ways to write a node wrongly.  -> (kind, text) each"""
    def but(**fields):
        return ast.unparse(type(node)(**(dict(ast.iter_fields(node)) | fields)))
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        left, right = ast.unparse(node.left), ast.unparse(node.comparators[0])
        if len(node.ops) == 1:
            yield "comparison", f"(({left}) {COMPARISONS[type(node.ops[0])]} ({right}))"
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "constant", str(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield "constant", repr(node.value + 1) if isinstance(node.value, int) else repr(
            node.value * 2 + (node.value == 0))
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = ast.unparse(node.left), ast.unparse(node.right)
        yield "sign", f"(({left}) {OPERATORS[type(node.op)]} ({right}))"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not, ast.Invert)):
        yield "sign", f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.BoolOp):
        other = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
        yield "operator", f"({but(op=other)})"
    elif isinstance(node, ast.IfExp):
        yield "condition", f"({but(body=node.orelse, orelse=node.body)})"
    elif isinstance(node, ast.Slice):
        for end in ("lower", "upper"):
            if getattr(node, end) is not None:
                yield "off by one", but(**{end: ast.BinOp(getattr(node, end), ast.Add(),
                                                           ast.Constant(1))})
    elif isinstance(node, ast.Call):
        yield from calls(node, but)


def calls(node, but):
    """A keyword or the last of several arguments dropped, two neighbours swapped."""
    plain = not any(isinstance(x, ast.Starred) for x in node.args)
    name = ast.unparse(node.func).rpartition(".")[2]
    if plain and len(node.args) >= 2:
        swapped = [node.args[1], node.args[0], *node.args[2:]]
        if name not in SYMMETRIC:
            yield "swapped", but(args=swapped)
        yield "dropped", but(args=node.args[:-1])
    for keyword in node.keywords:
        if keyword.arg is not None and keyword.arg not in COSMETIC:
            rest = [other for other in node.keywords if other is not keyword]
            yield "dropped", but(keywords=rest)


def mutants(path):
    """(path, kind, first line, last line, what stood there, what stands there, the whole file)"""
    text = (ROOT / path).read_text(encoding="utf-8")
    lines = text.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()) + 1)
    data = text.encode()
    for node in nodes(ast.parse(text)):
        for kind, wrong in changes(node):
            a = starts[node.lineno - 1] + node.col_offset
            b = starts[node.end_lineno - 1] + node.end_col_offset
            mutated = data[:a] + wrong.encode() + data[b:]
            try:
                ast.parse(mutated)
            except SyntaxError:
                continue
            if wrong != ast.unparse(node):
                yield (path, kind, node.lineno, node.end_lineno, data[a:b].decode(), wrong,
                       mutated.decode())


# --- which tests touch a line ---------------------------------------------------------------------


def make_map(files=()):
    """Run all tests, or those of some files anew, under coverage.

    -> MAP: {file: {line: [test]}}, {test that passes: seconds}
    """
    import coverage
    began, lines, seconds = time.time(), {}, {}
    if files:
        known = json.loads(MAP.read_text(encoding="utf-8"))
        seconds = {test: spent for test, spent in known["seconds"].items()
                   if test.split("::")[0] not in files}
        lines = {path: {line: [test for test in tests if test in seconds]
                        for line, tests in of_file.items()}
                 for path, of_file in known["lines"].items()}
    with tempfile.TemporaryDirectory() as folder:
        report, data = Path(folder) / "junit.xml", Path(folder) / "coverage"
        subprocess.run([sys.executable, "-m", "pytest", "-q", "--deselect", "tests/test_planted.py",
                        "--cov=.", "--cov-context=test", "--cov-report=", "-o",
                        "junit_family=xunit1", f"--junitxml={report}", *files], cwd=ROOT,
                       check=False,
                       env=os.environ | dict(COVERAGE_FILE=str(data), OMP_NUM_THREADS="1"))
        for case in ElementTree.parse(report).iter("testcase"):
            if case.find("failure") is None and case.find("error") is None:
                seconds[f"{case.get('file')}::{case.get('name')}"] = float(case.get("time"))
        covered = coverage.CoverageData(str(data))
        covered.read()
        for file in covered.measured_files():
            path = str(Path(file).relative_to(ROOT))
            if Path(path).name.startswith("test_"):
                continue
            of_file = lines.setdefault(path, {})
            for line, contexts in covered.contexts_by_lineno(file).items():
                tests = {context.split("|")[0] for context in contexts} - {""}
                of_file[str(line)] = sorted(tests.union(of_file.get(str(line), [])))
    MAP.parent.mkdir(exist_ok=True)
    MAP.write_text(json.dumps(dict(lines=lines, seconds=seconds)), encoding="utf-8")
    os.utime(MAP, (began, began))  # what was edited meanwhile is newer


def newer_tests():
    """Test files that have changed since the map was made."""
    files = [*ROOT.glob("test_*.py"), *(ROOT / "tests").glob("test_*.py")]
    return [str(file.relative_to(ROOT)) for file in files
            if file.stat().st_mtime > MAP.stat().st_mtime and file.name != "test_planted.py"]


@functools.cache
def bodies(path):
    """First and last line of every function's body."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return [(node.body[0].lineno, node.end_lineno) for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)]


def at_import(path, line):
    """Is it run once, in whichever test is the first to import the file?"""
    return not any(first <= line <= last for first, last in bodies(path))


def tests_of(mutant, known, budget):
    """Of the tests that touch the mutant's lines, the quickest, that take so long together."""
    path, _, first, last, *_ = mutant
    of_file = known["lines"].get(path, {})
    found = {test for line in range(first, last + 1) for test in of_file.get(str(line), [])}
    if not found or at_import(path, first):  # all tests of the pages that touch the file
        pages = {test.split("::")[0] for tests in of_file.values() for test in tests}
        found = {test for test in known["seconds"] if test.split("::")[0] in pages}
    chosen, spent = [], 0.0
    for test in sorted(found, key=lambda test: known["seconds"].get(test, 1e9)):
        spent += known["seconds"].get(test, 1e9)
        if spent > budget:
            break
        chosen.append(test)
    return chosen, spent


# --- trying them ----------------------------------------------------------------------------------


def put(text, file):
    """Write a file, and forget its bytecode, which may look as new. Other bytecode is kept."""
    for old in file.parent.glob(f"__pycache__/{file.stem}.*"):
        old.unlink()
    file.write_text(text, encoding="utf-8")


def attempt(folder, mutant, tests):
    """In a forked process: run the tests on a mutated copy; exit status 0 if none notices."""
    path, *_, mutated = mutant
    put(mutated, folder / path)
    sys.dont_write_bytecode = False
    os.chdir(folder)
    sys.path[:] = [str(folder / name) for name in ("", "tests", "conformance")] + [
        entry for entry in sys.path if Path(entry or ".").resolve() not in (ROOT, ROOT / "tests")]
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    import pytest
    names = sorted({test.split("::")[0] for test in tests})
    wanted = set(tests)

    class Only:
        """Of the named files, the wanted tests, quickest first."""

        @staticmethod
        def pytest_collection_modifyitems(items):
            order = {test: i for i, test in enumerate(tests)}
            items[:] = sorted((item for item in items if item.nodeid in wanted),
                              key=lambda item: order[item.nodeid])
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *names], plugins=[Only])
    os._exit(0 if code in (0, 5) else 1)  # 5: no test ran


def preload():
    """What tests import and is not ours: once, before the forks."""
    import hypothesis, matplotlib.figure, numpy, pytest, tiktoken, torch  # noqa: E401, F401
    torch.set_num_threads(1)


def run(chosen, known, budget, jobs):
    """Try the mutants, so many at a time.  -> (mutant, verdict) each"""
    preload()
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as temporary:
        free = [Path(temporary) / str(i) for i in range(jobs)]
        for folder in free:
            folder.mkdir()
            for pattern in COPIED:
                for source in ROOT.glob(pattern):
                    if source.is_dir():
                        shutil.copytree(source, folder / source.name,
                                        ignore=shutil.ignore_patterns("__pycache__"))
                    else:
                        shutil.copy(source, folder)
        queue, running = list(chosen), {}
        while queue or running:
            while queue and free:
                mutant = queue.pop()
                tests, seconds = tests_of(mutant, known, budget)
                if not tests:
                    yield mutant, "no test"
                    continue
                folder = free.pop()
                process = fork.Process(target=attempt, args=(folder, mutant, tests))
                process.start()
                running[process.sentinel] = (process, folder, mutant,
                                             time.monotonic() + 60 + 5 * seconds)
            wait(list(running), timeout=1)
            for sentinel, (process, folder, mutant, limit) in list(running.items()):
                if process.is_alive() and time.monotonic() < limit:
                    continue
                verdict = "survived" if process.exitcode == 0 else "caught"
                if process.is_alive():
                    process.kill()
                    process.join()
                    verdict = "hung"  # which a person would notice
                put((ROOT / mutant[0]).read_text(encoding="utf-8"), folder / mutant[0])
                free.append(folder)
                del running[sentinel]
                yield mutant, verdict


def main():
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", help="files, FILE:LINE or folders of the project")
    parser.add_argument("--map", action="store_true", help=f"make {MAP.relative_to(ROOT)} anew")
    parser.add_argument("--remap", action="store_true", help="make it anew for newer tests alone")
    parser.add_argument("--sample", type=int, help="try so many, by chance; else all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--seconds", type=float, default=60, help="of tests for a mutant")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time")
    args = parser.parse_args()
    if args.map:
        make_map()
    if not MAP.exists():
        parser.error("there is no map of the tests yet; add --map")
    if args.remap and newer_tests():
        make_map(newer_tests())
    known = json.loads(MAP.read_text(encoding="utf-8"))
    chosen = []
    for path in args.paths:
        path, _, line = path.partition(":")
        folder = ROOT / path
        for file in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]:
            chosen += [mutant for mutant in mutants(str(file.relative_to(ROOT)))
                       if not line or mutant[2] == int(line)]
    if args.sample is not None:
        chosen = random.Random(args.seed).sample(chosen, min(args.sample, len(chosen)))
    tally = Counter()
    for mutant, verdict in run(chosen, known, args.seconds, args.jobs):
        path, kind, line, _, right, wrong, _ = mutant
        tally[path, verdict not in ("survived", "no test")] += 1
        if verdict in ("survived", "no test"):
            print(f"{verdict}: {path}:{line} {kind}: {' '.join(right.split())[:70]} -> "
                  f"{' '.join(wrong.split())[:70]}", flush=True)
    for path in sorted({path for path, _ in tally}):
        caught, survived = tally[path, True], tally[path, False]
        print(f"{path}: {caught} of {caught + survived} caught")
    caught = sum(n for (_, found), n in tally.items() if found)
    print(f"all: {caught} of {tally.total()} caught, {caught / max(tally.total(), 1):.1%}")


if __name__ == "__main__":
    main()
