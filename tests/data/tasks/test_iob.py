"""Tags of words and their entities."""

from data.tasks.iob import find_entities


def test_a_type_named_like_the_tag_of_other_words_is_a_type():
    assert find_entities(["O", "I-O", "O", "B-O", "I-O", "O"]) == [("O", 1, 2), ("O", 3, 5)]
    assert find_entities(["I-x", "O", "I-x", "I-x", "B-x"]) == [("x", 0, 1), ("x", 2, 4), ("x", 4, 5)]
