"""An engine checked from its logs only: one JSON object per response, one per line.

    LPO_LOGS=responses.jsonl python conformance/check_model.py conformance/adapters/logs.py

{"policy": "token", "select": "sample", "seed": 1, "prompt": [3, 7, 1], "ids": [51, 0],
 "tau_idx": [2, 3], "logps": [-1.25, -0.5]}; `logps` may be left out. FORMAT.md lists the calls.
"""
import json
import os
from collections import defaultdict
from pathlib import Path

LOGGED = defaultdict(list)
for line in Path(os.environ["LPO_LOGS"]).read_text(encoding="utf-8").splitlines():
    x = json.loads(line)
    row = [x["ids"], x["tau_idx"]] + [x["logps"]] * ("logps" in x)
    LOGGED[x["policy"], x["select"], x["seed"], str(x["prompt"])].append(row)


def generate(policy, prompts, max_new_tokens, n, seed, select):
    kind = Path(policy).parent.name
    if not any(kind == key[0] for key in LOGGED):
        raise NotImplementedError
    return [LOGGED[kind, select, seed, str(prompt)][:n] for prompt in prompts]
