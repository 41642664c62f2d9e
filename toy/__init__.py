"""What the main job calls and a reader may skip.

    options.py     a command line from a dataclass, whose fields are the flags
    files.py       atomic files, seeds, progress, the environment that is recorded
    models.py      the base model: a small GPT, pretrained on the noisy corpus
    samplers.py    truncations and penalties: choices besides temperatures
    evaluate.py    responses and their rewards; win rates, votes, the oracle; rows of results
    figures.py     the figures, from results.json alone
    say.py         tries the trained model: words coloured by temperature
    check_task.py  twenty examples of a task of your own, and what is wrong with them
"""
