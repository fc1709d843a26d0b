"""JSON from anywhere, parsed so that nothing in it is lost or does harm without a word."""

import json
import re
from collections.abc import Sequence

from optformer.errors import StudyError

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse(text: str) -> object:
    """The value of a JSON text.

    Raises:
      StudyError: it is no JSON, nests too deeply, repeats a key, or holds half a character.
    """
    try:
        document = json.loads(text, object_pairs_hook=_unique)
        if _SURROGATE.search(text):
            json.dumps(document, ensure_ascii=False).encode()
    except RecursionError as error:
        raise StudyError("the JSON is nested too deeply. Export it again.") from error
    except UnicodeEncodeError as error:
        raise StudyError(
            f"the JSON holds half a character ({error.object[error.start]!r}, a lone surrogate). "
            "Export it again."
        ) from error
    except StudyError:
        raise  # also a ValueError
    except ValueError as error:
        raise StudyError(f"the text is not JSON ({error}).") from error
    return document


def _unique(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise StudyError(f"the key {twice!r} is there twice in one object. Keep one of them.")
    return found
