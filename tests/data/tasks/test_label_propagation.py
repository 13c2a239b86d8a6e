"""Label propagation: the most confident predictions, unlabeled vectors, and names of classes as labels."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from data.tasks.label_propagation import balance_classes, propagate_labels, select_most_confident, weigh_texts
from data.tasks.linear_probe import fit_logistic_regression


def test_the_most_confident_of_each_class_are_selected():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.7, 0.3], [0.45, 0.55], [0.1, 0.9]])
    indices, classes = select_most_confident(probabilities, 0.5)
    assert dict(zip(indices.tolist(), classes.tolist(), strict=True)) == {0: 0, 2: 0, 5: 1}
    indices, _ = select_most_confident(probabilities, 1.0, min_confidence=0.75)
    assert sorted(indices.tolist()) == [0, 2, 5]


def test_label_propagation_beats_the_nearest_labeled_text():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(3, 16)) * 2
    true = rng.integers(3, size=600)
    unlabeled = centers[true] + rng.normal(size=(600, 16))
    labels = np.array([0, 1, 2])
    features = centers + 1.5 * rng.normal(size=(3, 16))
    nearest = np.square(unlabeled[:, None] - features[None]).sum(-1).argmin(1)
    predictions = propagate_labels(features, labels, unlabeled, 0.25).argmax(1)
    assert (predictions == true).mean() > max(0.9, (nearest == true).mean())


def test_a_class_without_labels_keeps_its_column():
    unlabeled = np.eye(4)[[0, 0, 2, 2, 3]]
    probabilities = propagate_labels(np.eye(4)[[0, 2]], np.array([0, 2]), unlabeled, 0.25)
    assert probabilities.shape == (5, 3) and (probabilities[:, 1] == 0).all()


def test_few_labels_of_a_class_weigh_as_much_as_those_of_another():
    labels = np.repeat([0, 1, 3], [40, 15, 5])
    weights = balance_classes(labels)
    assert np.allclose(np.bincount(labels, weights), [20, 20, 0, 20])
    # With many labels, a text weighs the same whatever its class; between them, the weights change gradually.
    assert np.allclose(balance_classes(np.repeat([0, 1], [250, 6])), 1)
    between = balance_classes(np.repeat([0, 1], [160, 32]))
    assert np.isclose(between[-1] / between[0], 5**0.5)
    assert weigh_texts(labels, len(labels), 4.0).tolist() == weights.tolist()


def test_balanced_classes_find_a_rare_class_more_often():
    """Against drawn labels of known distributions: fewer errors in the mean of the classes, and not more of all."""
    errors = []
    for seed in range(20):
        rng = np.random.default_rng(seed)

        def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
            labels = (rng.random(count) < 0.25).astype(int)  # noqa: B023  called in this turn of the loop
            vectors = rng.normal(size=(count, 32))  # noqa: B023
            vectors[:, 0] += 2 * labels
            return vectors / 32**0.5, labels

        (features, labels), (test, truth) = draw(40), draw(2_000)
        wrong = [
            fit_logistic_regression(features, labels, 0, 1.0, weights).predict(test) != truth
            for weights in (None, balance_classes(labels))
        ]
        errors.append([[each[truth == name].mean() for name in (0, 1)] for each in wrong])
    plain, balanced = np.mean(errors, 0)
    assert balanced.mean() < plain.mean() - 0.05 and balanced[1] < plain[1]


def test_weights_equal_repeated_rows():
    generator = np.random.default_rng(0)
    features, labels = generator.normal(size=(12, 5)), np.array([0, 1, 2] * 2 + [0, 1, 2, 0, 1, 2])
    weights = weigh_texts(labels, 6, 4.0)
    assert weights.tolist() == [1.0] * 6 + [2.0] * 6 and weigh_texts(labels, 12, 4.0) is None
    repeated = np.concatenate([np.arange(12), np.arange(6, 12)])
    expected = LogisticRegression(C=2.0, max_iter=2_000).fit(features[repeated], labels[repeated])
    actual = fit_logistic_regression(features, labels, 0, 2.0, weights)
    assert np.allclose(actual.coef_, expected.coef_, atol=1e-3)


def test_names_alone_find_clusters():
    generator = np.random.default_rng(0)
    centers = np.eye(4)[:3]
    labels = generator.integers(3, size=300)
    # The names point away from the clusters, but each is nearest to its own.
    names = centers + 0.6 * np.roll(centers, 1, axis=0)
    features = centers[labels] + 0.35 * generator.normal(size=(300, 4))
    nearest = (features @ names.T).argmax(1)
    spread = propagate_labels(names, np.arange(3), features, 0.1, np.full(3, 4.0), 10.0).argmax(1)
    assert (spread == labels).mean() > (nearest == labels).mean() + 0.03
