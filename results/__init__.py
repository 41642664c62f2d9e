"""What was found, and what finds it.

    README.md        the results page; its tables and figures are made from data/
    sweeps.py        what each loss costs, what each option does, where it fails
    rivals.py        LPO beside every rival, and over sampler settings
    rules.py         the rules among them, and the grids over which they are tuned
    objectives.py    the other objectives and inputs of the head
    real_model.py    a real language model: rules, the oracle, settings, and why training collapses
    real_tables.py   its tables and figures
    sweep_plots.py   the figures of the sweeps
    rival_plots.py   the figures of the rivals
    rival_tables.py  their tables
    diagram.py       the diagram of the method
    tables.py        every table of the pages, from saved results alone
    benchmark.py     speed against nanoGPT's way and transformers: BENCHMARKS.md
    data/            the results that the pages show
    figures/         their figures
"""
