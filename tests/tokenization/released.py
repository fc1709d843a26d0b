"""The released preset without T5's file: its options, with text pieces similar to T5's."""

import functools

from sentencepiece import sentencepiece_model_pb2

from optformer.tokenization.tokenizer import RELEASED, StudyTokenizer, vocabulary_of
from optformer.tokenization.vocabulary import default_text_model


@functools.cache
def released_tokenizer() -> StudyTokenizer:
    """The shipped pieces, with a space before every text, as in T5's model."""
    model = sentencepiece_model_pb2.ModelProto.FromString(default_text_model())
    model.normalizer_spec.add_dummy_prefix = True
    return StudyTokenizer(RELEASED, vocabulary_of(RELEASED, model.SerializeToString()))
