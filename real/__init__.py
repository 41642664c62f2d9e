"""A real language model: any causal one of Hugging Face's, decoded at temperatures that it chooses.

    hf.py               a transformers model as the module that `generate` takes
    custom_generate.py  the decoder inside transformers' own generate
    models.py           a small language model from a package
"""
