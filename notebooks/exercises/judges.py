"""The twelve exercises: file, title, minutes, the notebook to have read, a judge a function."""
from dataclasses import dataclass
from typing import Callable

from notebooks.exercises import equations, programs


@dataclass(frozen=True)
class Exercise:
    file: str
    title: str
    minutes: int
    after: int      # the notebook to have read
    judges: tuple   # named as the functions that they judge

    @property
    def functions(self) -> dict[str, Callable]:
        """name -> judge(theirs, student)"""
        return {judge.__name__: judge for judge in self.judges}


EXERCISES = dict(enumerate((
    Exercise("01_temperature_zero.py", "Temperature 0", 10, 2, (equations.word_logps,)),
    Exercise("02_mixture.py", "The mixture", 15, 2, (equations.mixture_logps,)),
    Exercise("03_posterior.py", "The posterior P(tau | y, h)", 15, 3,
             (equations.posterior, equations.latent_gradient)),
    Exercise("04_losses.py", "The three losses", 30, 3,
             (equations.separate_score, equations.joint_score, equations.latent_score,
              equations.preference_loss)),
    Exercise("05_mask.py", "The mask", 15, 3, (equations.response_mask, equations.masked_score)),
    Exercise("06_reference.py", "The reference over rounds", 25, 4,
             (equations.margin, equations.rounds)),
    Exercise("07_sampler.py", "The sampler", 30, 4, (programs.draw, programs.respond)),
    Exercise("08_pairs_with_ties.py", "Pairs with ties", 15, 4, (programs.pairs,)),
    Exercise("09_task_of_your_own.py", "A task of your own", 40, 4, (programs.task,)),
    Exercise("10_bug_hunt.py", "A bug hunt", 20, 4, (programs.bug,)),
    Exercise("11_sampler_setting.py", "A sampler setting", 30, 5, (programs.eta,)),
    Exercise("12_reinforce_against_lpo.py", "REINFORCE against LPO", 40, 5,
             (equations.exact_gradient, equations.reinforce, equations.lpo_gradient))), start=1))
