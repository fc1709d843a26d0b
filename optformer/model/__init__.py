"""The T5 encoder-decoder, its Gaussian-process experts, decoding, and checkpoints.

Array dimensions in this folder:

    B studies      S encoder tokens    T decoder tokens    C new decoder tokens
    D width        H heads             K head size         F feed-forward size
    V vocabulary   O output tokens     Q bins              P parameters          N candidates
"""
