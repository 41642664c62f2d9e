"""What was found, and what finds it.

    README.md        the results page; APPENDIX.md has every table, HISTORY.md earlier versions
    study.py         computes, in parallel, one file per cell
    plan.py          which cells there are; cells.py computes one of them
    methods.py       rules, objectives, decoders that see less: what LPO is compared with
    publish.py       data from finished cells; tables.py, plots.py and intervals.py show them
    claims.py        an assertion for each claim of the pages
    real_model.py    the table, figures and claims of real/README.md
    benchmark.py     how fast; BENCHMARKS.md has its tables
    diagram.py       the diagram of the method
    data/            the results that the pages show
    figures/         their figures
"""
