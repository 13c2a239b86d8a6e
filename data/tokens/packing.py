"""Documents cut into pieces that fit a row, and pieces packed into rows."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

MIN_FILL = 0.8  # reviews: 82 % of the pieces end a sentence, 95 % of the positions are filled; at 0.5 94 and 91 %
SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？", ";", "...")


def sentence_end_ids(vocab: dict[str, int]) -> np.ndarray:
    """int64: the ids of tokens that end a sentence, whatever marks a tokenizer puts before or after them."""
    return np.array(
        sorted(
            number
            for token, number in vocab.items()
            if token.strip("Ġ▁#</w>") in SENTENCE_ENDS or token in BYTE_LEVEL_SENTENCE_ENDS
        ),
        np.int64,
    )


def to_byte_level(text: str) -> str:
    """How a byte-level tokenizer spells a text."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names = {byte: chr(byte) for byte in visible}
    names |= {byte: chr(256 + place) for place, byte in enumerate(b for b in range(256) if b not in names)}
    return "".join(names[byte] for byte in text.encode())


BYTE_LEVEL_SENTENCE_ENDS = {to_byte_level(end) for end in SENTENCE_ENDS}


def split_documents(cu_seqlens: np.ndarray, max_tokens: int, cut_points: np.ndarray) -> np.ndarray:
    """int64 (pieces, 2), start and length: documents cut into pieces of at most `max_tokens` tokens.

    cu_seqlens: int64 (documents + 1,), where each starts. cut_points: int64, ascending: places after which a piece may end
    well. A long document is cut after the last of them that leaves a piece filled by EARLIEST, else where it is full.
    """
    lengths = np.diff(cu_seqlens)
    whole = (lengths > 0) & (lengths <= max_tokens)
    found = [np.stack([cu_seqlens[:-1][whole], lengths[whole]], 1)]
    listed = cut_points.tolist()
    cut = []
    for start, end in zip(
        cu_seqlens[:-1][lengths > max_tokens].tolist(), cu_seqlens[1:][lengths > max_tokens].tolist()
    ):
        while end - start > max_tokens:
            after = listed[place - 1] + 1 if (place := bisect_right(listed, start + max_tokens - 1)) else 0
            until = after if after > start + int(MIN_FILL * max_tokens) else start + max_tokens
            cut.append((start, until - start))
            start = until
        cut.append((start, end - start))
    found.append(np.array(cut, np.int64).reshape(-1, 2))
    pieces = np.concatenate(found)
    return pieces[np.argsort(pieces[:, 0], kind="stable")]


def pack_rows(lengths: np.ndarray, row_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Best-fit decreasing (Johnson 1973): which pieces share a row of `row_length` positions, none longer than it.

    lengths: int64 (pieces,), positions each takes. Returns (the pieces row by row, int64 (pieces,); where each row
    starts in them, int64 (rows + 1,)). Works on how many pieces there are of each cost, not on the pieces (Krell et
    al. 2021), so its time hardly grows with them.
    """
    # Pieces of one cost in random order: repeats of a document stand side by side and would share a row.
    shuffled = np.random.Generator(np.random.Philox(key=[0, 0])).permutation(len(lengths))
    by_cost = shuffled[np.argsort(lengths[shuffled], kind="stable")]
    count = np.bincount(lengths, minlength=row_length + 1)
    # Rows not yet full, by room left: (how many, the costs they hold).
    with_room: list[list[tuple[int, tuple[int, ...]]]] = [[] for _ in range(row_length + 1)]
    for cost in range(row_length, 0, -1):
        left = int(count[cost])
        with_room[row_length].append((len(lengths), ()))  # as many empty rows as anybody could want
        for room in range(cost, row_length + 1):
            # The fullest row with room takes pieces of this cost until it has none left: so many at once.
            fits = room // cost
            while left and with_room[room]:
                rows, held = with_room[room].pop()
                taken, last = min(rows, left // fits), 0
                if taken < rows:
                    last = left - taken * fits
                for times, pieces in ((taken, fits), (1, last)):
                    if times and pieces:
                        with_room[room - pieces * cost].append((times, held + (cost,) * pieces))
                if rows > taken + bool(last):
                    with_room[room].append((rows - taken - bool(last), held))
                left -= taken * fits + last
        with_room[row_length].clear()
    next_of = np.concatenate([[0], np.cumsum(count)])[:-1]
    pieces, sizes = [], []
    for rows, held in (group for groups in with_room for group in groups):
        block = np.empty((rows, len(held)), np.int64)
        for column, cost in enumerate(held):
            block[:, column] = by_cost[next_of[cost] : next_of[cost] + rows]
            next_of[cost] += rows
        pieces.append(block.reshape(-1))
        sizes.append(np.full(rows, len(held)))
    sizes = np.concatenate(sizes) if sizes else np.zeros(0, np.int64)
    return (np.concatenate(pieces) if pieces else np.zeros(0, np.int64)), np.concatenate([[0], np.cumsum(sizes)])
