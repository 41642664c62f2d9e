"""What was found, and what finds it.

    README.md        the results page; its tables and figures are made from data/
    sweeps.py        what each loss costs, what each option does, where it fails
    sweep_plots.py   the figures of the sweeps
    tables.py        every table of the pages, from saved results alone
    benchmark.py     speed against nanoGPT's way and transformers: BENCHMARKS.md
    data/            the results that the pages show
    figures/         their figures
"""
