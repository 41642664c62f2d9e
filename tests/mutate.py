"""Plants small mechanical mistakes in the product, and prints those that no test notices.

    python tests/mutate.py                    300 mutants of the core, toy/ and fast/, by chance
    python tests/mutate.py --n 50 lpo.py toy  of a file and a folder

A mutant is one slip: a comparison, constant, sign or operator changed, a condition turned round, an
argument dropped, two swapped. The likeliest test files are tried first, the others on survivors.
Some survivors mean the same as the code; only a reader can tell.
"""
import argparse
import ast
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / part) for part in ("tests", "conformance", ".")]
import conftest  # noqa: E402, F401  and with it torch, imported before the forks
import transformers.models.gpt2.modeling_gpt2  # noqa: E402, F401
from test_planted import copied, failures  # noqa: E402

DEFAULT = ["lpo.py", "model.py", "decoder.py", "tasks.py", "train_toy.py", "toy", "fast"]
TESTS = {name: f"tests/test_{name}.py" for name in
         "decoder model samplers tasks train evaluate main_job say exact fast".split()}
TESTS["lpo"] = "test_lpo.py"
LIKELIEST = {  # file -> test files, likeliest first
    "lpo.py": "lpo exact decoder", "decoder.py": "decoder lpo samplers fast", "model.py": "model",
    "tasks.py": "tasks evaluate", "train_toy.py": "train main_job", "toy/models.py": "train",
    "toy/evaluate.py": "evaluate train main_job", "toy/samplers.py": "samplers exact lpo",
    "toy/say.py": "say", "toy/check_task.py": "tasks main_job", "toy/options.py": "main_job say",
    "toy/files.py": "main_job", "toy/figures.py": "main_job say", "fast/cache.py": "fast",
    "fast/generate.py": "fast decoder lpo", "fast/compiled.py": "fast", "fast/record.py": "fast"}
COSMETIC = set("""lw ms size figsize fontsize dpi alpha rotation width height va ha color ls marker
    layout help file flush end encoding fc boxstyle weight family prog metavar ncols lead
    initial_indent subsequent_indent bbox_to_anchor loc description title xlabel ylabel
    label""".split())
COMPARISONS = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=",
               ast.NotEq: "==", ast.In: "not in", ast.NotIn: "in", ast.Is: "is not",
               ast.IsNot: "is"}
OPERATORS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*",
             ast.Mod: "*", ast.Pow: "*", ast.BitAnd: "|", ast.BitOr: "&"}


def nodes(node):
    """What may be mutated: no messages, annotations, printing or `if __name__`."""
    called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    if called == "require":
        yield from nodes(node.args[0])
    if isinstance(node, (ast.JoinedStr, ast.Raise, ast.Assert)) or called in ("print", "require"):
        return
    if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
        return
    yield node
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            cosmetic = isinstance(child, ast.keyword) and child.arg in COSMETIC
            if isinstance(child, ast.AST) and not cosmetic and field not in (
                    "annotation", "returns", "decorator_list"):
                yield from nodes(child)


def changes(node):
    """Ways to write a node wrongly, as text."""
    def but(**fields):
        return ast.unparse(type(node)(**(dict(ast.iter_fields(node)) | fields)))
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield f"({ast.unparse(node.left)} {COMPARISONS[type(node.ops[0])]} " + (
            f"{ast.unparse(node.comparators[0])})")
    elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        x = node.value
        yield repr(not x if isinstance(x, bool) else 2 * x if x and isinstance(x, float) else x + 1)
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield f"(({ast.unparse(node.left)}) {OPERATORS[type(node.op)]} ({ast.unparse(node.right)}))"
    elif isinstance(node, ast.UnaryOp):
        yield f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.BoolOp):
        yield f"({but(op=ast.And() if isinstance(node.op, ast.Or) else ast.Or())})"
    elif isinstance(node, ast.IfExp):
        yield f"({but(body=node.orelse, orelse=node.body)})"
    elif isinstance(node, ast.Call):
        if len(node.args) >= 2 and not any(isinstance(x, ast.Starred) for x in node.args):
            yield but(args=[node.args[1], node.args[0], *node.args[2:]])
            yield but(args=node.args[:-1])
        for keyword in node.keywords:
            if keyword.arg not in {None, *COSMETIC}:
                yield but(keywords=[other for other in node.keywords if other is not keyword])


def mutants(file):
    """(file, line, right, wrong, the whole text) of every mutant of a file"""
    data = (ROOT / file).read_bytes()
    starts = [0]
    for line in data.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    for node in nodes(ast.parse(data)):
        for wrong in changes(node):
            a = starts[node.lineno - 1] + node.col_offset
            b = starts[node.end_lineno - 1] + node.end_col_offset
            if wrong != ast.unparse(node):
                text = (data[:a] + wrong.encode() + data[b:]).decode()
                yield file, node.lineno, data[a:b].decode(), wrong, text


def survives(mutant, folder):
    """Whether no test notices; in a process of its own. What runs for minutes is noticed."""
    (folder / mutant[0]).write_text(mutant[4], encoding="utf-8")
    likeliest = LIKELIEST[mutant[0]].split()
    for name in [*likeliest, *(name for name in TESTS if name not in likeliest)]:
        receive, send = multiprocessing.Pipe(False)
        process = multiprocessing.get_context("fork").Process(
            target=lambda: send.send(bool(failures(folder, TESTS[name]))))
        process.start()
        process.join(300)
        ended = process.exitcode == 0
        process.kill()
        if not ended or receive.recv():
            return False
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", default=DEFAULT)
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    files = [str(file.relative_to(ROOT)) for path in args.paths for file in (
        sorted((ROOT / path).glob("*.py")) if (ROOT / path).is_dir() else [ROOT / path])]
    chosen = [mutant for file in files if file in LIKELIEST for mutant in mutants(file)]
    chosen = random.Random(args.seed).sample(chosen, min(args.n, len(chosen)))
    tally, start = Counter(), time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        for i, mutant in enumerate(chosen):
            file, line, right, wrong, _ = mutant
            alive = survives(mutant, copied(Path(temporary) / str(i)))
            tally[file, alive] += 1
            if alive:
                print(f"survived: {file}:{line}: {right[:80]} -> {wrong[:80]}", flush=True)
    for file in sorted({file for file, _ in tally}):
        print(f"{file}: {tally[file, False]} of {tally[file, False] + tally[file, True]} caught")
    print(f"all: {len(chosen)}, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
