"""The table of results: its columns, its file, and the questions that figures and pages ask of it.

A row is one number and what it is of; columns that do not apply are None. A file of results is
JSON: the columns' names once, then each row as a list, beside the configuration and, for each
stage, its seconds and the environment that computed it.

    results = rows.load("out/results.json")     # results["rows"] is a list of dicts
    pandas.DataFrame(results["rows"])           # if you like
"""
import json
import shlex
import zlib
from pathlib import Path

SCHEMA = 2
COLUMNS = ("experiment", "policy", "temperature", "level", "variant", "select", "base_seed", "seed",
           "subtask", "role", "place", "side", "tau", "round", "pairs", "beta", "lr", "pairing",
           "reference", "metric", "votes", "value", "n")


def row(metric, value, n, **columns):
    """One row of the table; columns not named are None."""
    unknown = set(columns) - set(COLUMNS)
    assert not unknown, f"not columns of the table: {unknown}"
    return dict.fromkeys(COLUMNS) | columns | dict(metric=metric, value=float(value), n=int(n))


# --- the file -------------------------------------------------------------------------------------


def checksum(body):
    return zlib.crc32(json.dumps(body).encode())


def to_json(results):
    """The text of a file of results, which carries its own checksum."""
    columns = list(dict.fromkeys(name for row in results["rows"] for name in row))
    body = dict(results, schema=SCHEMA, columns=columns,
                rows=[[row.get(name) for name in columns] for row in results["rows"]])
    body.pop("crc32", None)
    return json.dumps(body | dict(crc32=checksum(body)))


def load(path):
    """Saved results; ValueError on a file that is missing, damaged or of another program."""
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
        kept = results.pop("crc32")
        if results["schema"] != SCHEMA:
            raise ValueError(f"schema {results['schema']}")
        if checksum(results) != kept:
            raise ValueError("checksum")
        columns = results.pop("columns")
        results["rows"] = [dict(zip(columns, values)) for values in results["rows"]]
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is missing, damaged or of another program "
                         f"({type(error).__name__}: {str(error)[:60]!r}); make it anew") from None
    return results


# --- questions ------------------------------------------------------------------------------------


def where(results, **wanted):
    """Rows whose columns have the wanted values; a tuple offers several."""
    found = results["rows"]
    for column, value in wanted.items():
        offered = value if isinstance(value, tuple) else (value,)
        found = [row for row in found if row.get(column) in offered]
    return found


def values(results, **wanted):
    return [row["value"] for row in where(results, **wanted)]


def known(results, column, **wanted):
    """The values that a column has in such rows, in their order of appearance."""
    found = dict.fromkeys(row.get(column) for row in where(results, **wanted))
    return [value for value in found if value is not None]


def single(results, **wanted):
    """Rows of single decoders, temperatures sampled, of the results' first variant."""
    wanted = dict(policy="adaptive", select="sample",
                  variant=results["config"]["variants"][0]) | wanted
    return [row for row in where(results, **wanted) if row["base_seed"] is not None]


def interval(results, metric, **wanted):
    """A mean over all base models and decoders, and the ends of its 95 % interval, or None."""
    wanted = dict(policy="adaptive", select="sample", base_seed=None,
                  variant=results["config"]["variants"][0]) | wanted
    found = [values(results, metric=metric + end, **wanted) for end in ("", "_low", "_high")]
    if not found[0]:
        return None
    assert [len(one) for one in found] == [1, 1, 1], f"{metric} {wanted}: {found}"
    return tuple(one[0] for one in found)


def summary(results):
    """The headline of a run as text: what the best fixed temperature and the decoders earn."""
    levels = [level for level in ("sequence", "token") if level in results["config"]["levels"]]
    lines = [["experiment", "best fixed", *(f"{level} level" for level in levels), "oracle"]]
    for experiment in results["config"]["experiments"]:
        of = dict(experiment=experiment, subtask=None, votes=None, temperature=None)
        earned = [interval(results, "reward", level=level, **of) for level in levels]
        best, oracle = (interval(results, metric, level=levels[0], **of)
                        for metric in ("best_fixed", "oracle"))
        lines.append([experiment, *(f"{x[0]:.3f}" for x in (best, *earned, oracle))])
    widths = [max(map(len, column)) for column in zip(*lines)]
    table = "\n".join("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in
                                enumerate(zip(line, widths))) for line in lines)
    return (f"\nmean reward on test prompts ({results['config']['variants'][0]}, temperatures "
            f"sampled)\n{table}\n\nPair accuracy is the share of pairs that the loss has in the "
            "right order. It falls towards 0.5\nas the rounds go on: what the decoder has learned "
            "no longer tells best from worst.\nWhat these numbers mean: results/README.md; their "
            "intervals: out/results.json.")


def how_to_ask(results):
    """The command that asks what was trained, with a held-out prompt of its own."""
    folder = results["config"]["out"]
    where = "" if folder == "out" else f" --out {shlex.quote(folder)}"
    return f'ask it something: python -m toy.say "{results["samples"][0]["prompt"]}"{where}'
