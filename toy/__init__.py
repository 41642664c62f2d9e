"""What the main job needs beside the method.

    options.py     the command line: one frozen dataclass, whose fields are the flags
    samplers.py    sampler settings that may stand where a temperature does
    stages.py      finished stages kept in files; the progress line
    pretrain.py    the base model: a small GPT on the noisy corpus
    evaluate.py    every fixed temperature, the oracle, a trained decoder; win rates and votes
    intervals.py   95 % intervals over base models, decoders and prompts
    rows.py        the table of results: its columns, its file, and the questions asked of it
    plots.py       the figures, from that table alone
    say.py         asks a trained model: responses in the terminal, words coloured by temperature
    check_task.py  twenty examples of a task of your own, and what is wrong with them
"""
