"""The tasks: rewards against counts done by hand, the corpus against its stated noise, the
tokenizer against any text. A grader's bug looks exactly like a learning result."""
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tasks
from tasks import EOS, SPLITS, TASKS, VOCAB_SIZE, WORDS, corpus, decode, encode, prompts, split_of

ASK = {"math": "please sum up 3 4 9 1 :", "general": "now list five rare birds for us :",
       "story": "kindly tell how fox finds the moon :",
       "constrained": "please start each line with rare birds :"}


@pytest.mark.parametrize("task, text, reward", [
    ("math", "3 4 7 9 6 1 7 .", 1.0),
    ("math", "3 4 8 9 7 1 7 .", 1.0),  # the last digit counts
    ("math", "3 4 7 9 6 1 8 .", 0.0),
    ("math", "3 4 7 9 6 1 7", 0.0),
    ("math", "", 0.0),
    ("general", "robin heron wren swan finch .", 1.0),
    ("general", "robin robin wren swan finch .", 0.8),  # a repeat earns nothing
    ("general", "robin plum wren swan finch .", 0.6),  # a misfit costs one
    ("general", "robin heron wren swan finch crow .", 0.6),  # a sixth bird and a late stop misfit
    ("general", "", 0.0),
    ("story", "fox finds old moon . owl hides tiny river . castle mends wild comet . "
              "piper warms merry garden .", 1.0),
    ("story", "fox finds old moon . fox finds old moon . fox finds old moon . fox finds old moon .",
     4 / 16),
    ("story", "foxx finds old moon . owl hides tiny river . castle mends wild comet . "
              "piper warms merry garden .", 14 / 16),
    ("constrained", "robin finds old moon heron hides tiny river wren mends wild comet "
                    "swan warms merry garden", 1.0),
    ("constrained", "robin finds old moon heron hides tiny river plum mends wild comet "
                    "fig warms merry garden", 0.5),
    ("constrained", "robin finds old moon robin finds old moon robin finds old moon "
                    "robin finds old moon", 0.25),
    ("constrained", "robin fnids odl mooon robin finds old moon robin finds old moon "
                    "robin finds old moon", 0.0),  # 3 distinct - 3 misfits
])
def test_rewards_by_hand(task, text, reward):
    assert TASKS[task].reward(ASK[task], text) == pytest.approx(reward, abs=1e-12)


def test_reward_of_repeats_by_hand():
    sentence = "the fox finds the old moon ."
    looped = " ".join([sentence] * 5)  # 33 3-grams, 7 of them different
    assert TASKS["repeats"].reward("", looped) == pytest.approx(-(1 - 7 / 33))
    noisy = looped.replace("the fox", "uh fox", 1).replace("moon", "mooon", 1)
    assert noisy.split()[0] == "uh"
    grams = list(zip(noisy.split(), noisy.split()[1:], noisy.split()[2:]))
    repeated = sum(gram in grams[:i] for i, gram in enumerate(grams)) / 33
    assert TASKS["repeats"].reward("", noisy) == pytest.approx(-repeated - 2 * 2 / 35)
    assert TASKS["repeats"].reward("", "") == -2.0  # silence is no way out


def test_vote_needs_the_sum_not_the_trap():
    prompt = "hurry solve for 3 4 9 1 :"
    assert TASKS["vote"].reward(prompt, "slowly 3 4 7 9 6 1 7 .") == 1
    assert TASKS["vote"].reward(prompt, "quickly 3 4 7 9 6 1 5 .") == 0  # 6 - 1
    assert tasks.majority(["7", None, "5", "7"]) == ["7"]
    assert sorted(tasks.majority(["7", "5", None])) == ["5", "7"]
    assert tasks.majority([None]) == []


def test_the_corpus_is_as_noisy_as_it_says():
    """Shares within 5 standard errors of the stated ones: false alarm below 1e-5 for all."""
    rng, n = np.random.default_rng(1), 4000

    def close(hits, total, p):
        assert abs(hits / total - p) < 5 * math.sqrt(p * (1 - p) / total), (hits / total, p)
    pairs = corpus("repeats", 600, rng)
    slots = [word for _, text in pairs for word in text.split()[::7]]
    close(sum(word in tasks.DISFLUENCIES for word in slots), len(slots), 0.4)
    nouns = [word for _, text in pairs for word in text.split()[1::7]]
    close(sum(word in tasks.TYPOS["N"] for word in nouns), len(nouns), 0.04)
    right = [TASKS["math"].reward(*pair) for pair in corpus("math", n, rng)]
    # three slips of -1, 0, +1 with .15, .7, .15 that cancel: .7^3 + 6 * .15 * .15 * .7
    close(sum(right), n, 0.7 ** 3 + 6 * 0.15 ** 2 * 0.7)
    pairs = corpus("general", n, rng)
    own = sum(word in tasks.CATEGORIES[prompt.split()[4]] for prompt, text in pairs
              for word in text.split()[:5])
    close(own, 5 * n, 0.7 + 0.3 / 6)
    starts = [tasks.constraint(*pair) for pair in corpus("constrained", n, rng)]
    close(4 * sum(starts), 4 * n, 0.6)
    trapped, pairs = {True: [], False: []}, corpus("vote", n, rng)
    in_trap = [TASKS["vote"].reward(*pair) for pair in pairs if pair[1].startswith(tasks.TRAP)]
    assert np.mean(in_trap) < 0.1 < 0.3 < np.mean([TASKS["vote"].reward(*pair) for pair in pairs])
    for prompt, text in pairs:
        trapped[prompt.startswith(tasks.HURRY)].append(text.startswith(tasks.TRAP))
    close(sum(trapped[True]), len(trapped[True]), 0.3)
    close(sum(trapped[False]), len(trapped[False]), 0.05)
    close(len(trapped[True]), n, 0.5)


def test_prompts_of_the_splits_are_disjoint_and_all_alike_in_length():
    for name, task in TASKS.items():
        found = {split: prompts(name, split, 100, np.random.default_rng(2)) for split in SPLITS}
        for split, drawn in found.items():
            assert len(set(drawn)) == 100 and {split_of(prompt) for prompt in drawn} == {split}
            assert {len(encode(prompt)) for prompt in drawn} == {tasks.PROMPT_LENGTH}
        for prompt, text in corpus(name, 50, np.random.default_rng(3)):
            assert split_of(prompt) == "train"
            assert len(encode(text)) + 1 == len(task.roles)  # and the end of text
    with pytest.raises(ValueError, match="fewer than 9999 test prompts"):
        prompts("general", "test", 9999, np.random.default_rng(0))


def test_words_are_tokens_and_the_model_knows_no_others():
    assert VOCAB_SIZE == len(WORDS) + 1 == EOS + 1
    for i, word in enumerate(WORDS):
        assert encode(word) == [i] and decode([i, EOS]) == word
    assert all(token >= VOCAB_SIZE for token in encode("unheard")[1:])


@given(st.text())
def test_any_text_survives_the_tokenizer(text):
    assert decode(encode(text)) == text
