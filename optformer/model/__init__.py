"""The T5 encoder-decoder, the Gaussian processes beside it, decoding, checkpoints.

Array dimensions in this folder, one key for all:

    B studies      S encoder tokens    T decoder tokens    C new decoder tokens
    D width        H heads             K head size         F feed-forward size
    V vocabulary   O output tokens     Q bins              P parameters          N candidates
"""
