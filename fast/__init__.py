"""What a GPU needs: the same responses faster. A test compares each module with its plain twin.

    generate.py      decoder.generate with recorded steps (CUDA graphs); on a CPU, decoder.generate
    cache.py         model.GPT for one new token per row, on keys and values that stay in place
    compiled.py      that step, fused by torch.compile
    record.py        a function of tensors, recorded once and replayed: pretraining steps
"""
