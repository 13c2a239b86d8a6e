"""Next tokens of packed rows: where they are predicted, and what they are."""

import numpy as np


def find_next_tokens(input_ids: np.ndarray, document_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (indices into the flattened rows of the tokens that another of their document follows, the followers).

    input_ids, document_ids: int64 (rows, length), as of `data.tokens.collate.collate_rows`; both results int64
    (predicted,).
    """
    has_next = np.zeros(document_ids.shape, dtype=bool)
    has_next[:, :-1] = (document_ids[:, :-1] == document_ids[:, 1:]) & (document_ids[:, 1:] >= 0)
    indices = np.flatnonzero(has_next)
    return indices, input_ids.reshape(-1)[indices + 1]
