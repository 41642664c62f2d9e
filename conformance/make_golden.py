"""Makes the cases: those of golden.json with their answers, and random ones for `check.py --fuzz`.

Inputs lie on a grid that float32 and bfloat16 represent exactly, so that a difference is the fault
of the arithmetic, never of reading. What lies under the mask is garbage on purpose. README.md
describes the file.
    python conformance/make_golden.py    writes golden.json again
"""
import itertools
import json
import math
import random
from pathlib import Path

import numpy as np

import oracle

GOLDEN, SCHEMA, SEED = Path(__file__).with_name("golden.json"), 1, 241109661
SIDES = ("chosen", "rejected")
FORMS = [("joint", "token", False), ("joint", "sequence", False), ("separate", "token", False),
         ("separate", "sequence", False), ("latent", "token", False),
         ("latent", "sequence", False), ("latent", "sequence", True)]  # variant, level, exact
MASKS = {1: [[1]], 2: [[1, 1], [1, 0], [0, 1]],
         3: [[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 1, 1]]}  # gaps too
BETAS = (0.1, 0.25, 0.5, 2.0)  # never 1, which would hide that beta is missing
GARBAGE = 512  # times what is valid


def below(rng, n):
    """0..n-1. Of Python's generator only random() promises the same numbers everywhere."""
    return math.floor(rng.random() * n)


def grid(rng, *shape, width=3):
    """Multiples of 1/16 from -width up to width."""
    steps = [below(rng, 32 * width) - 16 * width for _ in range(math.prod(shape))]
    return np.array(steps).reshape(shape) / 16


def random_side(rng, K, level, reference, moved, masks, scale, V):
    """One side of a case: a response for each mask."""
    mask = np.array(masks, dtype=bool)
    (B, T), L = mask.shape, mask.shape[1] if level == "token" else 1
    lm = grid(rng, B, T, V)
    side = {"lm_logits": lm * scale,
            "ref_lm_logits": (lm + grid(rng, B, T, V, width=2) * moved) * scale,
            "decoder_logits": grid(rng, B, L, K, width=2),
            "ref_decoder_logits": grid(rng, B, L, K, width=2) if reference else None,
            # half the tokens are the arg-max: temperature 0 would else be impossible nearly always
            "tokens": np.array([[int(l_t.argmax()) if rng.random() < 0.5 else below(rng, V)
                                 for l_t in row] for row in lm]),
            "tau_idx": np.array([[below(rng, K) for _ in range(L)] for _ in range(B)]),
            "mask": mask}
    for name, x in side.items():
        if name.endswith("logits") and x is not None and x.shape[1] == T:
            x[~mask] *= GARBAGE
    return side


def random_case(rng, name, variant, level, exact=False, reference=False, zero=True, moved=True,
                temperatures=None, B=2, T=3, V=4, scale=1, beta=None):
    """A case without answers. reference: of the decoder; zero: temperature 0 in the grid; moved:
    the language model differs from its reference; scale: of its logits."""
    taus = temperatures or ([0.7, 0.0, 1.3] if zero else [0.3, 0.7, 1.3])
    case = {"name": name, "variant": variant, "level": level, "exact_sequence": exact,
            "beta": beta or BETAS[below(rng, len(BETAS))], "temperatures": taus}
    for side in SIDES:
        masks = [MASKS[T][below(rng, len(MASKS[T]))] for _ in range(B)]
        case[side] = random_side(rng, len(taus), level, reference, moved, masks, scale, V)
    return case


def golden_cases(rng):
    """Every form x decoder reference x temperature 0 x moved language model, then special ones."""
    for (variant, level, exact), *axes in itertools.product(FORMS, *[[False, True]] * 3):
        words = [pair[on] for pair, on in zip([("noref", "ref"), ("warm", "zero"),
                                               ("frozen", "moved")], axes)]
        name = "-".join([variant, level, *["exact"] * exact, *words])
        yield random_case(rng, name, variant, level, exact, *axes)
    special = [("nll", "token", {}, ""), ("nll", "sequence", {}, ""),
               ("nll", "token", {"reference": True}, "ref-ignored"),
               ("separate", "token", {"temperatures": [0.7]}, "k-1"),
               ("separate", "sequence", {"beta": 4096.0}, "saturated-beta"),
               ("separate", "token", {"reference": True}, "uniform-ref"),
               ("separate", "sequence", {"reference": True}, "uniform-ref"),
               ("joint", "token", {"temperatures": [2.0 ** -10, 0.0, 1.3]}, "tiny-temperature"),
               ("joint", "token", {}, "ties"), ("latent", "token", {}, "ties"),
               ("latent", "token", {"reference": True}, "one-hot")]
    for variant, level, exact in [FORMS[0], FORMS[4], FORMS[6]]:
        special += [(variant, level, {"exact": exact, **axes}, what) for what, axes in {
            "length-1": {"T": 1, "reference": True}, "k-1": {"temperatures": [0.7]},
            "k-1-greedy": {"temperatures": [0.0]}, "huge-logits": {"scale": 1024, "beta": 0.25},
            "saturated-beta": {"beta": 512.0, "zero": False}}.items()]
    for variant, level, axes, what in special:
        words = [variant, level, "exact" if axes.get("exact") else "", what]
        case = random_case(rng, "-".join(filter(None, words)), variant, level, **axes)
        if what == "saturated-beta":  # the second pair is the first turned round: loss 0 and huge
            for name, x in case["chosen"].items():
                if x is not None:
                    y = case["rejected"][name]
                    x[1], y[1] = y[0], x[0]
        for side in (case[side] for side in SIDES):
            if what == "ties":  # of the largest logit, under policy and reference
                for name in ("lm_logits", "ref_lm_logits"):
                    side[name][:, :, 1:3] = side[name].max(-1, keepdims=True)
            if what == "uniform-ref":  # the form without one plus (n_chosen - n_rejected) log K
                side["ref_decoder_logits"][:] = 0
            if what == "one-hot":  # DPO at the last temperature
                side["decoder_logits"][:] = side["ref_decoder_logits"][:] = [0, 0, 4096]
        yield case


def fuzz_cases(seed, count):
    """Random members of the same family, of random sizes, with their answers."""
    rng = random.Random(seed)
    for i in range(count):
        variant, level, exact = [*FORMS, ("nll", "token", False)][below(rng, len(FORMS) + 1)]
        reference, zero, moved = (rng.random() < 0.5 for _ in range(3))
        taus = {(1 + below(rng, 16)) / 10 for _ in range(1 + below(rng, 4))}
        name = "-".join(["fuzz", str(seed), str(i), variant, level, *["exact"] * exact])
        case = random_case(rng, name, variant, level, exact, reference, zero, moved,
                           sorted(taus) + [0.0] * zero, 1 + below(rng, 3), 1 + below(rng, 3),
                           2 + below(rng, 5))
        yield answered(case)


def answered(case):
    """The case with what the oracle says; log-probabilities under the mask are NaN: not compared.

    scale: by how much its tolerance grows, the largest finite log-probability that is summed.
    Rounding errors are relative to the terms of a sum, not to the sum.
    """
    text, logps = {}, [-1.0]
    for side, x in ((side, case[side]) for side in SIDES):
        text[side] = oracle.temperature_logps(x["lm_logits"], x["tokens"], case["temperatures"])
        text[side][~x["mask"]] = math.nan
        for r in oracle.responses(case, side):
            for t in r.positions():
                logps += [logp for terms in oracle.latent_terms(r, [t], r.column(t))
                          for logp in terms if logp > -oracle.INF]
    scores = None if case["variant"] == "nll" else {s: oracle.score(case, s) for s in SIDES}
    return {**case, "expected": {"scale": math.ceil(-min(logps)), "text_logps": text,
                                 "scores": scores, "losses": oracle.loss(case),
                                 "gradients": oracle.gradients(case)}}


def plain(x):
    """Arrays and floats as JSON: 15 significant digits, "-inf", and null for what is NaN."""
    if isinstance(x, dict):
        return {key: plain(value) for key, value in x.items()}
    if isinstance(x, np.ndarray):
        x = (x.astype(int) if x.dtype == bool else x).tolist()
    if isinstance(x, list):
        return [plain(value) for value in x]
    if not isinstance(x, float):
        return x
    if not math.isfinite(x):
        return None if math.isnan(x) else "-inf"
    return int(x) if x.is_integer() else float(f"{x:.15g}")


def arrays(x, name=""):
    """The inverse; numpy reads "-inf" and null by itself."""
    if isinstance(x, dict):
        return {key: arrays(value, key) for key, value in x.items()}
    if not isinstance(x, list):
        return x
    if name == "temperatures":
        return [float(tau) for tau in x]
    return np.array(x, dtype={"tokens": int, "tau_idx": int, "mask": bool}.get(name, float))


def text():
    """golden.json, one case a line."""
    lines = [json.dumps(plain(answered(case)), separators=(",", ":"))
             for case in golden_cases(random.Random(SEED))]
    return f'{{"schema": {SCHEMA}, "cases": [\n' + ",\n".join(lines) + "\n]}\n"


def load():
    """The cases of golden.json."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    if golden["schema"] != SCHEMA:
        raise ValueError(f"golden.json has schema {golden['schema']}, this program reads {SCHEMA}; "
                         "take both from one version")
    return [arrays(case) for case in golden["cases"]]


if __name__ == "__main__":
    GOLDEN.write_text(text(), encoding="utf-8")
    print(f"wrote {GOLDEN.name}, {GOLDEN.stat().st_size} bytes")
