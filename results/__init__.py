"""What was found, and what finds it.

    README.md        the results page
    diagram.py       the diagram of the method
    data/            the results that the pages show
    figures/         their figures
"""
