"""The same results, faster: each page has a plain twin in the core, and a test that ties the two.

    generate.py      decoder.generate with a cache, finished rows dropped, CUDA graphs
    cache.py         model.GPT for one new token a row
    compiled.py      the step of both, fused by torch.compile: an option for a GPU
"""
