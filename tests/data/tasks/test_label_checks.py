"""Labels that are compared with each other."""

from data.tasks.label_checks import find_similar_labels


def test_numbers_alike_are_reported_and_codes_with_an_underscore_are_no_numbers():
    assert find_similar_labels(["1", "1.0", "10", "2"]) == [["1", "1.0"]]
    assert find_similar_labels(["1_0", "10", "1_1", "11"]) == []
