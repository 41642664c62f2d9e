"""The playground in a browser without a window: its numbers against PyTorch, its rewards against
tasks.py, its controls, its manners."""
import base64
import copy
import itertools
import json
import math
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import tasks
import train_toy
from decoder import AdaptiveDecoder, Rollout, aligned, generate, response_logps
from lpo import lpo_loss, word_logps
from model import GPT, GPTConfig
from playground import build
from tasks import EOS, EXPERIMENTS, TASKS, VOCAB_SIZE, WORDS, decode, encode
from toy.evaluate import draw_prompts, respond
from toy.options import parse
from toy.samplers import CUTS, ORDERS, Setting, choice_of, label
from toy.stages import Job, Stages

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)
HOW = "the playground's tests need a browser: apt-get install chromium, pip install playwright"
COMMITTED = build.PAGE.read_text(encoding="utf-8")
DATA = json.loads(build.data_in(COMMITTED))
TINY = ("--experiments mix,repeats --levels token,sequence --pretrain-steps 6 --rounds 3 "
        "--prompts 9 --responses 6 --steps 3 --test-prompts 6 --test-samples 2 --oracle-prompts 3 "
        "--lr 0.05").split()
TASK_NAMES = [name for names in EXPERIMENTS.values() for name in names]
Z = 5.2  # standard errors: a false alarm in 5 million


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason=HOW)
    if CHROMIUM is None:
        pytest.skip(HOW)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page, and what it said and asked for."""

    def __init__(self, browser, path, seed=1, **settings):
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.said, self.requests = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.address = f"{Path(path).as_uri()}#seed={seed}"
        self.page.goto(self.address)
        self.page.wait_for_selector("body[data-shown]")

    def __call__(self, script, *given):
        return self.page.evaluate(script, *given)

    def text(self, selector):
        return self.page.inner_text(selector)

    def shown(self):
        """Wait until the page shows what its controls say."""
        self.page.wait_for_selector(f"body[data-shown='{self('state.version')}']")

    def settled(self):
        """Wait until the draws of the present state are all there."""
        self.page.wait_for_selector("#hundred_said:not(:empty)")
        self.page.wait_for_selector("#contest_said:not(:empty)")

    def close(self):
        self.context.close()
        assert not self.said, self.said
        local = [self.address.split("#")[0], "blob:null/"]
        assert all(url.split("#")[0].startswith(tuple(local)) for url in self.requests)


@pytest.fixture(scope="module")
def page(browser):
    opened = Opened(browser, build.PAGE)
    yield opened
    opened.close()


@pytest.fixture
def fresh(browser):
    """A page of its own for a test that changes it."""
    opened = Opened(browser, build.PAGE)
    yield opened
    opened.close()


# --- the same weights in PyTorch ------------------------------------------------------------------


def planes(text, dtype):
    """What `packed` wrote, read without it."""
    size = np.dtype(dtype).itemsize
    raw = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    return torch.tensor(raw.reshape(size, -1).T.copy().view(dtype).ravel().astype(float))


def filled(module, numbers):
    """A module with these numbers as its weights, in their order, in float64."""
    module = module.double()
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(numbers[:weight.numel()].view(weight.shape))
            numbers = numbers[weight.numel():]
    assert not len(numbers)
    return module.eval()


@pytest.fixture(scope="module")
def model():
    return filled(GPT(GPTConfig(**DATA["config"])), planes(DATA["base"], "<f2"))


def heads_of(data, number=0):
    """The committed page's decoders, each in its last round.  -> {(experiment, level): module}"""
    found = data["sets"][number]
    return {(head["experiment"], head["level"]): filled(
        AdaptiveDecoder(data["config"]["n_embd"], map(choice_of, found["choices"]), head["level"]),
        planes(head["last"], "<f2")) for head in found["decoders"]}


# --- what is in the page --------------------------------------------------------------------------


def test_the_committed_page_is_of_its_sources():
    """Bug: a source or a word list was changed and the page not built anew."""
    rebuilt = build.page(build.data_in(COMMITTED))
    assert rebuilt == COMMITTED, "run python -m playground.build --keep"


def test_the_page_is_small_and_complete():
    assert len(COMMITTED.encode()) < 800_000
    held = {(tuple(found["choices"]), head["experiment"], head["level"], len(head["steps"]))
            for found in DATA["sets"] for head in found["decoders"]}
    temperatures, settings = (tuple(found["choices"]) for found in DATA["sets"])
    assert held == {*((temperatures, e, "token", 5) for e in EXPERIMENTS),
                    *((temperatures, e, "sequence", 0) for e in EXPERIMENTS),
                    *((settings, e, "token", 0) for e in EXPERIMENTS)}
    assert any("=" in str(choice) for choice in settings)


def test_a_run_goes_into_a_page(browser, tmp_path, monkeypatch):
    """Bugs: rounds in the wrong order, the first one not uniform, errors of steps that add up, one
    decoder's weights under another's name, results of another run."""
    monkeypatch.setattr(train_toy.plots, "draw", lambda results, folder: [])
    outs = [tmp_path / "one", tmp_path / "two"]
    train_toy.main(parse([*TINY, "--out", str(outs[0])], ""))
    (outs[1] / "stages").mkdir(parents=True)
    for stage in (outs[0] / "stages").glob("base0-????????????.pt"):
        shutil.copy(stage, outs[1] / "stages")
    train_toy.main(parse([*TINY, "--levels", "token", "--choices", "0,1,min_p=.1@3", "--out",
                          str(outs[1])], ""))
    data = build.data_of(outs)
    (tmp_path / "page.html").write_text(build.page(json.dumps(data)), encoding="utf-8")
    opened = Opened(browser, tmp_path / "page.html")
    for number, out in enumerate(outs):
        cfg, results, _, decoders = build.stages_of(out)
        for (experiment, level), by_round in decoders.items():
            found = opened("""async ([number, experiment, level]) => {
                const by_round = await decoders_of(sources[number], experiment, level);
                return Object.fromEntries(Object.entries(by_round).map(([round, decoder]) => (
                    [round, [decoder.labels, decoder.level, decoder.weights.map(w => [...w])]])));
            }""", [number, experiment, level])
            every = number == 0 and level == "token"
            assert sorted(map(int, found)) == (list(range(cfg.rounds + 1)) if every
                                               else [0, cfg.rounds])
            for rnd, (labels, their_level, weights) in found.items():
                assert labels == list(cfg.choices) and their_level == level
                theirs = torch.tensor(sum(weights, []), dtype=torch.float64)
                ours = build.flat(by_round[int(rnd)]).double()
                if rnd == "0":
                    last = len(cfg.choices) * (cfg.n_embd + 1)
                    assert not theirs[-last:].any() and not ours[-last:].any()
                elif int(rnd) == cfg.rounds:
                    assert torch.equal(theirs, ours.half().double())
                else:  # half a step; a learning rate of 0.05 moves no weight by more than 127 steps
                    assert (theirs - ours).abs().max() <= 0.5001 / build.STEPS
                    assert (theirs - build.flat(by_round[-1])).abs().max() > 0.01
        for experiment in cfg.experiments:
            facts = data["sets"][number]["facts"][experiment]
            rows = [row for row in results["rows"] if row["experiment"] == experiment
                    and row["subtask"] is None and row["votes"] is None]
            fixed = [row["value"] for row in rows if row["policy"] == "fixed"
                     and row["metric"] == "reward"]
            assert facts["best_fixed"]["reward"] == max(fixed)
            for level in cfg.levels:
                rounds = [row["value"] for row in rows if row["metric"] == "round_reward"
                          and row["level"] == level]
                assert list(facts["levels"][level]["rounds"].values()) == rounds
                assert [facts["levels"][level]["reward"]] == [
                    row["value"] for row in rows if row["metric"] == "reward"
                    and row["level"] == level and row["select"] == "sample"
                    and row["policy"] == "adaptive" and row["base_seed"] is not None]
    opened.close()


def test_what_is_missing_or_does_not_fit_is_said(tmp_path):
    with pytest.raises(ValueError, match="missing"):
        build.data_of([tmp_path])


# --- the engine -----------------------------------------------------------------------------------


def test_logits_and_hidden_states_are_those_of_the_model(page, model):
    """Bugs: keys of another position, layer or prompt, a bias left out, tanh-GELU swapped, padding
    seen, tiles that miss a row. Whole texts at once, and word by word with what was kept."""
    rng = np.random.default_rng(0)
    idx = rng.integers(0, VOCAB_SIZE, (3, DATA["config"]["block_size"]))
    logits, hidden = page("""idx => {
        const { hidden } = model_here.prefill(idx);
        return [[...model_here.logits(hidden)], [...hidden]];
    }""", idx.tolist())
    with torch.no_grad():
        their_logits, their_hidden = model(torch.tensor(idx))
    assert np.abs(np.array(logits) - their_logits.numpy().ravel()).max() < 1e-9
    assert np.abs(np.array(hidden) - their_hidden.numpy().ravel()).max() < 1e-9
    with torch.no_grad():
        singles, _ = copy.deepcopy(model).float()(torch.tensor(idx))
    assert np.abs(np.array(logits) - singles.numpy().ravel()).max() < 2e-4

    asked = [p for name in TASKS if name != "lesson" for p in tasks.prompts(name, "test", 2, rng)]
    found = page("""asked => generate(model_here, asked.map(encode), 3, MOST_TOKENS,
        { temperature: 1.3 }, [5]).map(r => [r.prompt, r.tokens, [...r.hidden]])""", asked)
    assert len({len(tokens) for _, tokens, _ in found}) > 5  # rows end at different times
    for number, tokens, states in found:
        with torch.no_grad():
            _, theirs = aligned(model, [encode(asked[number])], torch.tensor([tokens]))
        assert np.abs(np.array(states) - theirs.numpy().ravel()).max() < 1e-9


@pytest.mark.parametrize("number, level", [(0, "token"), (0, "sequence"), (1, "token")])
def test_decoders_are_those_of_decoder_py(page, number, level):
    """Bugs: another activation, layers swapped, no softmax."""
    hidden = np.random.default_rng(1).normal(size=(7, DATA["config"]["n_embd"])) * 2
    for (experiment, their_level), head in heads_of(DATA, number).items():
        if their_level != level:
            continue
        found = page("""async ([number, experiment, level, hidden]) => {
            const by_round = await decoders_of(sources[number], experiment, level);
            return [...by_round[6].forward(Float64Array.from(hidden))];
        }""", [number, experiment, level, hidden.ravel().tolist()])
        theirs = head(torch.tensor(hidden)).detach().numpy().ravel()
        assert np.abs(np.array(found) - theirs).max() < 1e-9
        assert theirs.std() > 0.1


SETTINGS = [Setting(kind, value, tau, order) for kind, values in dict(
    top_k=(1, 3), top_p=(0.3, 0.9), min_p=(0.05, 0.3), typical_p=(0.2, 0.9),
    epsilon_cutoff=(0.02, 0.9), top_nsigma=(0.5, 1.5)).items() for value in values
    for tau, order in itertools.product((0.6, 1, 3), ORDERS)]


def test_choices_do_to_logits_what_they_do_in_python(page):
    """Bugs: a cut before the temperature where it comes behind, a cut that is off by one word, a
    division by 0, a label read wrongly."""
    assert {setting.kind for setting in SETTINGS} == set(CUTS)
    choices = [0.0, 0.05, 1.0, 1.7, *SETTINGS]
    logits = np.random.default_rng(2).normal(size=(12, 40)) * 3
    labels = [label(choice) for choice in choices]
    found = page("""([logits, labels]) => labels.map(label => logits.map(row => (
        [...word_logps(Float64Array.from(row), choice_of(label))].map(x => (
            x === -Infinity ? "never" : x)))))""", [logits.tolist(), labels])
    cut = 0
    for choice, of_choice in zip(choices, found):
        theirs = word_logps(torch.tensor(logits), choice).numpy()
        ours = np.array([[-math.inf if x == "never" else x for x in row] for row in of_choice])
        assert np.array_equal(np.isinf(ours), np.isinf(theirs)), choice
        finite = np.isfinite(theirs)
        assert np.abs(ours[finite] - theirs[finite]).max() < 1e-9, choice
        cut += np.isinf(theirs).any() and not np.isinf(theirs).sum() == 39 * 12
    assert cut > 20


def test_temperature_0_is_the_arg_max_and_of_equals_the_lowest(page, model):
    assert page("[...word_logps(Float64Array.of(1, 3, 3, 2), 0)].map(Math.exp)") == [0, 1, 0, 0]
    rng = np.random.default_rng(3)
    for name in EXPERIMENTS["mix"] + ["constrained", "vote", "repeats"]:
        asked = tasks.prompts(name, "test", 6, rng)
        theirs = generate(model, [encode(p) for p in asked], TASKS[name].length, temperature=0.0,
                          eos=EOS)
        found = page("""([name, asked]) => respond(model_here, asked.map(p => [name, p]), 1,
            { temperature: 0 }, [1]).map(r => r.tokens)""", [name, asked])
        for ours, ids, mask in zip(found, theirs.tokens, theirs.mask):
            assert ours == ids[mask].tolist()


def test_a_number_falls_where_its_probability_lies(page):
    """Worked by hand: 0.25, never, 0.75. Bug: a word that is impossible, drawn by rounding."""
    assert page("""[0, 0.2499, 0.2501, 0.999999999, 1].map(u => (
        draw(Float64Array.of(Math.log(0.25), -Infinity, Math.log(0.75), -Infinity), u)))"""
                ) == [0, 0, 2, 2, 2]


def test_streams_are_uniform_and_their_own(page):
    found = np.array(page("""[[1], [2], [1, 0], [1, 1], [1, 0, 0]].map(seeds => {
        const next = stream(...seeds);
        return Array.from({ length: 4000 }, next);
    })"""))
    counts = np.stack([np.histogram(row, 20, (0, 1))[0] for row in found])
    assert (((counts - 200) ** 2 / 200).sum(1) < 75).all()  # chi-square of 19: 2 in 10 million
    correlation = np.corrcoef(found) - np.eye(5)
    assert np.abs(correlation).max() < Z / 4000 ** 0.5
    again = page("Array.from({ length: 5 }, stream(1, 1))")
    assert again == found[3][:5].tolist()


@pytest.mark.parametrize("level", ["fixed", "token", "sequence"])
def test_what_is_drawn_earns_what_it_earns_in_python(page, model, level):
    """Bugs: another temperature than the one that is shown, a decision at the wrong state, one
    choice for all responses. Equal mean rewards and temperatures, but for Z standard errors."""
    rng = np.random.default_rng(4)
    asked = draw_prompts("mix", "test", 90, rng)
    head = heads_of(DATA).get(("mix", level))
    policy = dict(temperature=0.8) if level == "fixed" else dict(decoder=head)
    theirs = respond(model, asked, 8, torch.Generator().manual_seed(0), **policy)
    found = page("""async ([asked, level]) => {
        const policy = level === "fixed" ? { temperature: 0.8 }
            : { decoder: (await decoders_of(sources[0], "mix", level))[6] };
        return respond(model_here, asked, 8, policy, [6]).map(r => (
            [r.reward, r.taus, r.tau_idx, r.tokens.length]));
    }""", [asked, level])
    ours = np.array([reward for reward, *_ in found]).reshape(len(asked), 8)
    difference = ours.mean(1) - theirs.rewards.mean(1)
    assert abs(difference.mean()) < Z * difference.std() / len(asked) ** 0.5
    for _, taus, tau_idx, n in found:
        assert len(taus) == n and len(tau_idx) == dict(fixed=0, token=n, sequence=1)[level]
        assert taus == ([0.8] * n if level == "fixed" else
                        [head.choices[k] for k in tau_idx] * (n if level == "sequence" else 1))
    if level != "fixed":
        used = np.array(head.choices)[theirs.rollout.tau_idx.numpy()]
        mask = theirs.rollout.mask.numpy()[:, :used.shape[1]]
        their_means = (used * mask).sum(1) / mask.sum(1)
        our_means = np.array([np.mean(taus) for _, taus, *_ in found])
        difference = (our_means - their_means).reshape(len(asked), 8).mean(1)
        assert abs(difference.mean()) < Z * difference.std() / len(asked) ** 0.5


def test_temperatures_set_by_hand_follow_roles_and_tasks(page):
    """Bugs: another response's grammar or task, a place taken one word too late."""
    rng = np.random.default_rng(7)
    by_role = dict(math=0.1, general=0.3, story=0.5, asked=0.7, way=0.9, article=1.1, rest=1.2)
    asked = [(name, prompt) for name in TASK_NAMES
             for prompt in tasks.prompts(name, "test", 3, rng)]
    found = page("""([asked, by_role]) => respond(
        model_here, asked, 2, policy_of({ by_role }, asked, 2), [1]).map(
            r => [r.prompt, r.text, r.taus])""", [asked, by_role])
    assert len(found) == 2 * len(asked)
    for number, text, taus in found:
        name, prompt = asked[number]
        roles = map(TASKS[name].role_of, tasks.places_of(TASKS[name].walk(prompt), text.split()))
        expected = [by_role.get(name, by_role[role]) for role in roles]
        assert taus == expected[:len(taus)] and len(taus) >= len(text.split())


# --- the tasks ------------------------------------------------------------------------------------


def responses_to(name, prompt, rng):
    """Texts of the corpus, with words changed, left out or added; nonsense; nothing."""
    words = TASKS[name].answer(prompt, rng).split()
    yield words
    changed = list(words)
    for _ in range(int(rng.integers(1, 6))):
        changed[int(rng.integers(len(words)))] = WORDS[int(rng.integers(EOS))]
    yield changed
    yield [word for word in words if rng.random() < 0.8]
    yield words[:int(rng.integers(len(words)))]
    yield [*words, *words[:7]]
    yield [WORDS[i] for i in rng.integers(EOS, size=int(rng.integers(0, 30)))]


def test_rewards_and_roles_are_exactly_those_of_tasks_py(page):
    """Every task, more than a thousand responses; equal to the last bit."""
    rng, cases, theirs = np.random.default_rng(5), [], []
    for name in TASK_NAMES:
        task = TASKS[name]
        for prompt in tasks.prompts(name, "test", 40, rng):
            for words in responses_to(name, prompt, rng):
                text = " ".join(words)
                places = tasks.places_of(task.walk(prompt), words)
                cases.append([name, prompt, text])
                roles = [task.role_of(place) for place in places]
                theirs.append([task.reward(prompt, text), places, roles])
    assert len(cases) >= 1000 and len({reward for reward, *_ in theirs}) > 200
    found = page("""cases => cases.map(([name, prompt, text]) => {
        const places = places_of(TASKS[name].walk(prompt), split_words(text));
        return [TASKS[name].reward(prompt, text), places, places.map(p => role_of(name, p))];
    })""", cases)
    for case, ours, expected in zip(cases, found, theirs):
        assert ours == expected, case


def test_prompts_are_those_of_their_split_and_task(page):
    """Bugs: a held-out prompt trained on, a prompt that the task would not ask."""
    for split, name in itertools.product(tasks.SPLITS, TASK_NAMES):
        found = page("([name, split]) => prompts_of(name, split, 60, stream(9))", [name, split])
        assert len(set(found)) == 60 and {tasks.split_of(prompt) for prompt in found} == {split}
        asked = {re.sub(r"\d", "0", " ".join(map(kind_of, prompt.split()))) for prompt in found}
        known = {re.sub(r"\d", "0", " ".join(map(kind_of, TASKS[name].ask(rng).split())))
                 for rng in [np.random.default_rng(0)] for _ in range(300)}
        assert asked <= known
        assert page("prompts => prompts.map(task_of)", found) == [name] * 60
    theirs = tasks.prompts("math", "test", 50, np.random.default_rng(0))
    assert page("prompts => prompts.map(split_of)", theirs) == ["test"] * 50


KINDS = [tasks.NOUNS, tasks.PLAIN_VERBS, tasks.OPENERS, tasks.FLAVOURS, tasks.PEOPLE, tasks.EVERY,
         tasks.LINES, list(tasks.CATEGORIES)]


def kind_of(word):
    """The first word of its kind stands for all."""
    return next((kind[0] for kind in KINDS if word in kind), word)


# --- training -------------------------------------------------------------------------------------


def test_pairs_are_those_of_make_pairs(page):
    """Bugs: a tie made a pair, the best taken for the worst."""
    rewards = np.random.default_rng(6).integers(0, 3, (40, 4)) / 3
    rewards[:5] = rewards[:5, :1]
    rewards[7] = [0.5, 0.5 + 1e-9, 0.5, 0.5]
    found = page("""rewards => make_pairs(rewards.map((reward, i) => ({ reward, i })), 4).map(
        side => side.map(({ i }) => i))""", rewards.ravel().tolist())
    assert found == list(train_toy.make_pairs(rewards))


ROUND = """([choices, hot, experiment, level, beta, lr]) => {
    const random = stream(21), decoder = new_decoder(choices, level, data.config.n_embd, random);
    for (const w of decoder.weights.slice(-2)) w.forEach((_, i) => { w[i] = 2 * random() - 1; });
    const reference = decoder.copy();
    for (const w of decoder.weights) w.forEach((_, i) => { w[i] += random() - 0.5; });
    const asked = draw_prompts(experiment, "train", 18, random);
    const policy = hot ? { temperature: 1.2 } : { decoder: reference };
    const responses = respond(model_here, asked, 5, policy, [22]);
    const pairs = make_pairs(responses, 5), B = pairs[0].length;
    const sides = pairs.map(side => side_of(model_here, decoder, reference, side));
    const before = decoder.weights.map(w => [...w]), found = lpo_loss(decoder, sides, B, beta);
    const { losses, accuracy } = update(decoder, sides, B, { beta, lr, steps: 20 });
    return { before, reference: reference.weights.map(w => [...w]), loss: found.loss,
             gradient: found.gradient.map(w => [...w]), losses, accuracy,
             after: decoder.weights.map(w => [...w]),
             pairs: pairs.map(side => side.map(r => [asked[r.prompt][1], r.tokens, r.tau_idx])) };
}"""


def head_with(choices, level, weights):
    head = AdaptiveDecoder(DATA["config"]["n_embd"], map(choice_of, choices), level)
    return filled(head, torch.tensor(sum(weights, []), dtype=torch.float64))


def sides_of(pairs, level):
    """What the page sampled, as train_toy.update takes it."""
    sides = []
    for side in pairs:
        T = max(len(tokens) for _, tokens, _ in side)
        tokens = torch.full((len(side), T), EOS)
        tau_idx = torch.zeros(len(side), T if level == "token" else 1, dtype=torch.long)
        mask = torch.zeros(len(side), T, dtype=torch.bool)
        for row, (_, ids, taus) in enumerate(side):
            tokens[row, :len(ids)] = torch.tensor(ids)
            mask[row, :len(ids)] = True
            tau_idx[row, :len(taus)] = torch.tensor(taus)
        prompts = [encode(prompt) for prompt, *_ in side]
        sides.append((prompts, Rollout(tokens, mask, torch.zeros(len(side), dtype=bool), tau_idx)))
    return sides


TEMPERATURES, OTHERS = (found["choices"] for found in DATA["sets"])


@pytest.mark.parametrize("choices, hot, experiment, level", [
    (TEMPERATURES, False, "constrained", "token"), (TEMPERATURES, False, "mix", "sequence"),
    (OTHERS, False, "mix", "token"), ([0.0, "top_p=0.5"], True, "constrained", "token"),
    ([0.0, "top_p=0.5"], True, "mix", "sequence")])
def test_gradient_and_twenty_steps_are_pytorchs(page, model, monkeypatch, choices, hot, experiment,
                                                level):
    """In double precision, autograd and torch.optim.AdamW. hot: drawn at 1.2, so that many tokens
    are impossible at every choice. Bugs: a term of the gradient, the sign of the rejected side, no
    reference, the mean over tokens, impossible tokens counted, AdamW's bias corrections."""
    beta, lr = 0.5, 4e-3
    found = page(ROUND, [choices, hot, experiment, level, beta, lr])
    head, reference = (head_with(choices, level, found[x]) for x in ("before", "reference"))
    sides = sides_of(found["pairs"], level)
    assert len(found["pairs"][0]) > 6
    logps = [response_logps(model, head, *side, ref_decoder=reference) for side in sides]
    loss = lpo_loss(*logps, "latent", beta).mean()
    loss.backward()
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-9) and abs(loss - math.log(2)) > 1e-3
    for ours, weight in zip(found["gradient"], head.parameters()):
        theirs = weight.grad.ravel()
        error = (torch.tensor(ours, dtype=torch.float64) - theirs).norm() / theirs.norm()
        assert error < 1e-6 and theirs.norm() > 1e-6
    losses = []
    plain = train_toy.lpo_loss
    monkeypatch.setattr(train_toy, "lpo_loss",
                        lambda *given: losses.append(plain(*given)) or losses[-1])
    statistics = train_toy.update(model, head, (model, reference), sides, "latent", beta, lr, 20)
    assert found["losses"] == pytest.approx([x.mean().item() for x in losses], rel=1e-6)
    assert losses[-1].mean() < losses[0].mean() - 0.02
    assert found["accuracy"] == pytest.approx(statistics["pair_accuracy"], abs=1e-6)
    assert (statistics["impossible"] > 0.05) == hot
    for ours, weight in zip(found["after"], head.parameters()):
        assert np.abs(np.array(ours) - weight.detach().numpy().ravel()).max() < 1e-6


TRAIN = """cfg => {
    const plain = make_pairs, pairs = [], said = [];
    make_pairs = (responses, samples) => {
        const found = plain(responses, samples);
        pairs.push([found, responses.map(r => r.reward)]);
        return found;
    };
    const draw_plain = draw_prompts;
    const asked = [];
    draw_prompts = (experiment, split, n, random) => {
        const found = draw_plain(experiment, split, n, random);
        asked.push([split, found]);
        return found;
    };
    train(cfg, model_here, message => said.push(message));
    [make_pairs, draw_prompts] = [plain, draw_plain];
    const rounds = said.filter(({ kind }) => kind === "round");
    const begin = said.find(({ kind }) => kind === "begin");
    return { kinds: said.map(({ kind }) => kind), asked,
             weights: [begin, ...rounds].map(({ weights }) => weights.map(w => [...w])),
             rewards: rounds.map(({ reward }) => reward),
             counts: rounds.map(({ counts }) => counts),
             losses: rounds.map(({ losses }) => losses),
             all_rewards: pairs.map(([, rewards]) => rewards),
             pairs: pairs.map(([sides], rnd) => sides.map(side => side.map(r => (
                 [asked[rnd + 1][1][r.prompt][1], r.tokens, r.tau_idx, r.text, r.reward])))) };
}"""


def config(**given):
    return dict(experiment="constrained", level="token", choices=TEMPERATURES, rounds=3, prompts=14,
                responses=5, steps=6, beta=0.5, lr=6e-3, seed=3, shuffled=False) | given


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_rounds_are_those_of_train_toy(page, model, level):
    """Each round is replayed in PyTorch. Bugs: a reference that is never renewed, an optimizer that
    goes on, a learning rate that stays, held-out prompts trained on, rewards of other texts."""
    cfg = config(level=level)
    found = page(TRAIN, cfg)
    splits = [split for split, _ in found["asked"]]
    assert splits == ["test", "train", "train", "train"]
    for split, asked in found["asked"]:
        assert {tasks.split_of(prompt) for _, prompt in asked} == {split}
    first = found["weights"][0]
    assert not any(first[4]) and not any(first[5])  # uniform
    assert 0.12 < np.max(first[0]) <= 0.125 and -0.125 <= np.min(first[0]) < -0.12  # 1 / sqrt(64)
    for rnd in range(cfg["rounds"]):
        for prompt, tokens, _, text, reward in sum(found["pairs"][rnd], []):
            assert text == decode(tokens) and reward == TASKS["constrained"].reward(prompt, text)
        head, reference = (head_with(cfg["choices"], level, found["weights"][rnd]) for _ in "ab")
        sides = sides_of([[row[:3] for row in side] for side in found["pairs"][rnd]], level)
        train_toy.update(model, head, (model, reference), sides, "latent", cfg["beta"],
                         cfg["lr"] * (1 - rnd / cfg["rounds"]), cfg["steps"])
        after = np.concatenate([w.detach().numpy().ravel() for w in head.parameters()])
        ours = np.array(sum(found["weights"][rnd + 1], []))
        assert np.abs(ours - after).max() < 1e-6
        assert found["rewards"][rnd] == pytest.approx(np.mean(found["all_rewards"][rnd]))
        assert set(found["counts"][rnd]) == {"asked", "rest"}
    ticks = found["kinds"].count("step"), found["kinds"].count("column")
    assert ticks[0] == cfg["rounds"] * cfg["steps"] and ticks[1] > cfg["rounds"] * 20
    assert [kind for kind in found["kinds"] if kind not in ("column", "step")] == [
        "begin", "held_out", "round", "round", "round", "held_out"]


def test_the_control_deals_out_each_prompts_own_rewards(page):
    """Bugs: rewards dealt out across prompts, or not at all; another reward reported."""
    straight, shuffled = (page(TRAIN, config(rounds=1, shuffled=x)) for x in (False, True))
    ours, theirs = (np.array(found["all_rewards"]).reshape(14, 5) for found in (straight, shuffled))
    assert np.array_equal(np.sort(ours), np.sort(theirs)) and not np.array_equal(ours, theirs)
    assert straight["rewards"] == shuffled["rewards"]
    assert straight["weights"][1] != shuffled["weights"][1]


# --- the controls ---------------------------------------------------------------------------------


def words_of(opened, id):
    opened.shown()
    return opened(f"[...document.querySelectorAll('#{id} .word')].map(w => w.ariaLabel)")


def test_it_begins_with_the_seed_of_its_address(browser, page):
    """Bugs: a seed that is not read, chance beside the seed."""
    texts = []
    for seed in (5, 5, 6):
        opened = Opened(browser, build.PAGE, seed=seed)
        assert opened.page.input_value("#seed") == str(seed)
        texts.append(words_of(opened, "learned"))
        opened.close()
    assert texts[0] == texts[1] != texts[2]


def test_controls_of_the_policies(fresh):
    """Bugs: a control without effect, the fixed side changed with the decoder, a level or a round
    that is shown but not used."""
    page = fresh.page
    fixed, learned = words_of(fresh, "fixed"), words_of(fresh, "learned")
    assert {text.split(", ")[1] for text in fixed} == {"temperature 0.6"}
    page.focus("#tau")
    page.keyboard.press("ArrowRight")
    assert fresh.text("#tau_value") == "0.7"
    assert {text.split(", ")[1] for text in words_of(fresh, "fixed")} == {"temperature 0.7"}
    assert words_of(fresh, "learned") == learned
    assert len({text.split(", ")[1] for text in learned}) > 1

    page.focus("#round")
    page.keyboard.press("Home")
    fresh.shown()
    assert fresh.text("#round_value") == "0 of 6" and "round 0" in fresh.text("#learned_title")
    assert words_of(fresh, "learned") != learned
    shares = fresh("[...state.decoder.forward(new Float64Array(64).fill(1))].map(Math.exp)")
    assert shares == pytest.approx([1 / 7] * 7)
    page.keyboard.press("ArrowRight")
    fresh.shown()
    assert fresh.text("#round_value") == "1 of 6"
    page.keyboard.press("End")
    assert words_of(fresh, "learned") == learned

    page.check("input[name=level][value=sequence]")
    page.wait_for_selector("#learned_title:has-text('sequence level')")
    assert len({text.split(", ")[1] for text in words_of(fresh, "learned")}) == 1
    page.focus("#round")
    page.keyboard.press("ArrowLeft")
    fresh.shown()
    assert fresh.text("#round_value").startswith("0 of 6")

    page.check("input[name=source][value='1']")
    page.wait_for_selector("#key .word:has-text('min-p')")
    assert page.is_disabled("input[name=level][value=sequence]")
    assert page.is_checked("input[name=level][value=token]")
    labels = {text.split(", ")[1] for text in words_of(fresh, "learned")}
    assert any("=" in of for of in labels)
    page.click("#again")
    assert page.evaluate("location.hash") == "#seed=2"


def test_tasks_prompts_and_rewards(fresh):
    """Bugs: a task whose prompts, decoder or reward is another's, lines broken elsewhere."""
    page = fresh.page
    for name in TASK_NAMES:
        page.select_option("#task", name)
        options = page.locator("#prompt option").all_inner_texts()
        assert len(options) == 8 and {tasks.split_of(option) for option in options} == {"test"}
        page.select_option("#prompt", options[3])
        fresh.shown()
        for id in ("fixed", "learned"):
            words = [text.rpartition(", ")[0] for text in words_of(fresh, id)]
            text = " ".join(word for word in words if word != "end of text")
            shown = float(fresh.text(f"#{id} .reward").split()[-1])
            assert shown == pytest.approx(TASKS[name].reward(options[3], text), abs=6e-4)
            lines = page.locator(f"#{id} .line").count()
            clauses = name in ("repeats", "story", "constrained")
            assert lines == (len(re.findall(r"\.(?= .)", text)) + 1 if clauses else 1)
    page.click("#more")
    assert page.locator("#prompt option").all_inner_texts() != options


def test_a_prompt_of_ones_own(fresh):
    """Bugs: an unknown word passed over, the wrong one named, another prompt answered."""
    page = fresh.page

    def ask(text):
        page.fill("#own", text)
        page.keyboard.press("Enter")
    page.focus("#own")
    ask("please tell how dragon finds the castel :")
    assert fresh.text("#own_error").endswith("dragon, castel.")
    assert page.is_visible("#known_words") and "lantern" in fresh.text("#known_words")
    ask("a b " * 5)
    assert "a, b" in fresh.text("#own_error")
    ask(" ".join(["fox"] * 9))
    assert "9 words; give at most 8" in fresh.text("#own_error")
    ask("")
    assert "one to eight" in fresh.text("#own_error")
    ask("hurry solve for 1 2 3 4 :")
    page.wait_for_selector("#rule:has-text('modulo 10')")
    assert fresh.text("#own_error") == "" and page.input_value("#task") == "vote"
    assert fresh("state.asked") == ["vote", "hurry solve for 1 2 3 4 :"]
    ask("fox moon owl")
    page.wait_for_selector("#learned .reward:has-text('No reward')")
    assert fresh("state.asked") == [None, "fox moon owl"]
    assert "no reward" in fresh.text("#hundred_said")
    words = page.locator("#learned .word")
    words.first.focus()
    assert "was drawn at" in fresh.text("#word_said")


def test_a_word_is_looked_at_by_key_pointer_and_tap(fresh):
    """Bugs: hover alone, numbers of another word, a second tab stop a word."""
    page = fresh.page
    words = page.locator("#learned .word")
    assert page.locator("#learned .word[tabindex='0']").count() == 1
    words.first.focus()
    for key, number in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("Home", 0),
                        ("ArrowRight", 1)):
        page.keyboard.press(key)
        assert page.evaluate("Number(document.activeElement.dataset.t)") == number
    assert page.locator("#learned .word[tabindex='0']").count() == 1

    def said():
        return fresh.text("#word_said")

    def tables():
        """Shares of choices, then the likeliest words."""
        return fresh("""[...document.querySelectorAll("#word_tables table")].map(table => (
            [...table.tBodies[0].rows].map(row => [...row.cells].map(c => c.textContent))))""")

    def expected(t):
        return fresh("""t => {
            const r = respond(model_here, [state.asked], 1, { decoder: state.decoder }, [1])[0];
            const h = r.hidden.subarray(64 * t, 64 * t + 64), l = model_here.logits(h);
            const taus = [...new Set([0, r.taus[t], 1.2])];
            return [[...state.decoder.forward(h)].map(Math.exp), r.taus[t],
                    taus.map(tau => [...word_logps(l, tau)].map(Math.exp))];
        }""", t)

    for t, look in ((1, lambda: None), (4, lambda: words.nth(4).hover()),
                    (6, lambda: words.nth(6).click())):
        look()
        shares, tau, of_words = expected(t)
        assert f"drawn at temperature {tau:.1f}" in said()
        of_choices, *found = tables()
        assert [float(row[-1].split()[0]) for row in of_choices] == pytest.approx(
            [100 * share for share in shares], abs=0.51)
        assert len(found) == len(of_words)
        for of, table in zip(of_words, found):
            best = np.argsort(-np.array(of), kind="stable")[:len(table)]
            likely = ["end of text" if i == EOS else WORDS[i] for i in best]
            assert [row[0] for row in table] == likely
            assert [float(row[1].split()[0]) for row in table] == pytest.approx(
                [100 * of[i] for i in best], abs=0.51)


def test_a_hundred_draws_and_the_contest(fresh):
    """Bugs: draws of another prompt or policy, a wrong interval or verdict, sliders swapped."""
    page = fresh.page
    fresh.settled()

    def shown(id):
        return [tuple(map(float, text.split(" ± "))) for text in
                page.locator(f"#{id} .number").all_inner_texts()]
    found = fresh("""[{ temperature: state.tau }, { decoder: state.decoder }].map(policy => (
        [0, 1, 2, 3, 4].flatMap(chunk => respond(model_here, [state.asked], 20, policy,
            [state.seed, 7, chunk]).map(r => r.reward))))""")
    for (mean, half), rewards in zip(shown("hundred"), found):
        assert mean == pytest.approx(np.mean(rewards), abs=6e-4)
        t = 1.98422  # Student's quantile of 99 degrees of freedom
        assert half == pytest.approx(t * np.std(rewards, ddof=1) / 10, abs=6e-4)

    for key, presses in (("#mine", "Home"), ("#rest", "End")):
        page.focus(key)
        page.keyboard.press(presses)
    assert fresh.text("#mine_value") == "0.0" and fresh.text("#rest_value") == "1.2"
    fresh.settled()
    cold_asked, decoder = shown("contest")
    page.focus("#mine")
    page.keyboard.press("End")
    page.focus("#rest")
    page.keyboard.press("Home")
    fresh.settled()
    hot_asked, again = shown("contest")
    assert decoder == again and cold_asked[0] > 0.4 > 0.2 > hot_asked[0]
    assert fresh.text("#contest_said").startswith("The decoder earns more than you, by")
    page.select_option("#task", "math")
    page.wait_for_selector("#mine_name:has-text('sums')")


def small_training(opened):
    """A size of training that a test can wait for."""
    opened("""() => {
        SIZES.push(["small", { prompts: 6, responses: 4, rounds: 3, steps: 4 }]);
        at("train_size").append(element("option", { value: SIZES.length - 1 }, "small"));
    }""")
    opened.page.select_option("#train_size", label="small")


def test_training_in_the_page_can_be_stopped_and_chosen(fresh):
    """Bugs: a stop that goes on, progress that stands, a decoder that cannot be chosen, another
    round's weights in its place, a line drawn as an area."""
    page = fresh.page
    page.click("#train")  # of full size
    page.wait_for_selector("#train_now:has-text('column')")
    assert page.is_disabled("#train")
    page.click("#stop")
    assert fresh.text("#train_said") == "Stopped." and page.is_enabled("#train")
    stood = page.get_attribute("#progress", "value")
    page.wait_for_timeout(300)
    assert page.get_attribute("#progress", "value") == stood

    small_training(fresh)
    page.click("#train")
    page.wait_for_selector("#train_said:has-text('Trained in')")
    assert page.locator("#rounds tbody tr").count() == 3
    assert page.locator("#before_after article").count() == 4
    assert fresh("getComputedStyle(document.querySelector('#curve polyline')).fill") == "none"
    assert float(page.get_attribute("#progress", "value")) == 1
    rows = page.locator("#rounds tbody tr").all_inner_texts()
    theirs = DATA["sets"][0]["facts"]["constrained"]["levels"]["token"]["rounds"]
    for rnd, row in enumerate(rows):
        assert row.split()[2] == f"{theirs[str(rnd)]:.3f}"
    last = fresh("training.by_round[3].weights.map(w => [...w])")
    assert sum(last, []) != sum(fresh("training.by_round[2].weights.map(w => [...w])"), [])
    page.check("input[name=source][value='2']")
    page.wait_for_selector("#learned_title:has-text('Trained here')")
    assert fresh.text("#round_value").startswith("3 of 3")
    assert fresh("state.decoder.weights.map(w => [...w])") == last
    page.select_option("#task", "math")  # which it was not trained for
    page.wait_for_selector("#learned_title:has-text('Learned decoder')")
    page.select_option("#train_set", "1")
    page.select_option("#train_experiment", "mix")
    page.check("#shuffled")
    page.click("#train")
    page.wait_for_selector("#train_said:has-text('Trained in')")
    assert "rewards shuffled" in fresh.text("#sets")
    assert "most drawn" in fresh.text("#rounds").lower()


# --- manners --------------------------------------------------------------------------------------


CONTRASTS = """() => {
    const channel = x => (x /= 255) <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
    const luminance = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
    const numbers = text => text.match(/[\\d.]+/g).map(Number);
    const found = [];
    for (const e of document.querySelectorAll("body *")) {
        const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
        if (!own || !e.checkVisibility() || e.closest("svg") || e.disabled) continue;
        let back = e;
        while (numbers(getComputedStyle(back).backgroundColor)[3] === 0) back = back.parentElement;
        const [a, b] = [getComputedStyle(e).color, getComputedStyle(back).backgroundColor].map(
            text => luminance(numbers(text)) + 0.05);
        found.push([Math.max(a, b) / Math.min(a, b), e.outerHTML.slice(0, 80)]);
    }
    return found;
}"""


@pytest.mark.parametrize("width, scheme", [(400, "dark"), (1200, "light")])
def test_it_fits_and_can_be_read(browser, width, scheme):
    """No horizontal scrolling, contrast of all text, every temperature's colour included, a name
    for every control, after a training too."""
    opened = Opened(browser, build.PAGE, color_scheme=scheme,
                    viewport=dict(width=width, height=800))
    page = opened.page
    page.check("input[name=source][value='1']")
    page.wait_for_selector("#key .word:has-text('min-p')")
    page.locator("#learned .word").nth(2).focus()
    small_training(opened)
    page.click("#train")
    page.wait_for_selector("#train_said:has-text('Trained in')")
    page.click("#known summary")
    assert opened("document.documentElement.scrollWidth") <= width
    found = opened(CONTRASTS)
    assert len(found) > 150 and min(found)[0] >= 4.5, min(found)
    light = opened("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")
    for share in np.linspace(0, 1, 101):
        style = opened("coloured", float(share))
        rgb, ink = re.search(r"rgb\((.*?)\); color: (\S+)", style).groups()
        linear = [((int(x) / 255 + 0.055) / 1.055) ** 2.4 for x in rgb.split(",")]
        luminance = np.dot([0.2126, 0.7152, 0.0722], linear)
        assert (luminance + 0.05) / 0.05 > 4.5 if ink == "#000" else 1.05 / (luminance + 0.05) > 4.5
    nameless = opened("""[...document.querySelectorAll("input, select, button")].filter(e => (
        !e.labels?.[0]?.textContent.trim() && !e.textContent.trim() && !e.ariaLabel)).map(
        e => e.outerHTML)""")
    assert nameless == []
    opened.close()


def test_tab_reaches_everything_in_the_order_of_the_page(fresh):
    """Bugs: a control that no key reaches, an order of its own."""
    page = fresh.page
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(
            "document.activeElement.id || document.activeElement.closest('[id]')?.id || ''"))
    order = ["task", "prompt", "more", "own", "known", "tau", "seed", "again", "sets", "levels",
             "round", "fixed", "learned", "mine", "rest", "train_experiment", "train_set",
             "train_level", "train_size", "shuffled", "train"]
    found = list(dict.fromkeys(id for id in reached if id in order))
    assert found[:len(order)] == order
    assert page.locator("meta[name=viewport]").count() == 1
    assert page.locator("[aria-live=polite]").count() >= 5
