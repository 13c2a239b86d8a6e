"""Clusters, their tree, mixture and stability; neighbors; names; positions."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from engine.errors import ConfigError
from explore import cluster, layout, names, neighbors


@pytest.fixture(scope="module")
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """600 points around 6 centers, the last two of them near each other, and the center of each."""
    rng = np.random.default_rng(0)
    centers = 4 * rng.normal(size=(6, 12))
    centers[5] = centers[4] + 1.5
    owners = np.repeat(np.arange(6), 100)
    return (centers[owners] + 0.3 * rng.normal(size=(600, 12))).astype(np.float32), owners


def test_principal_components_keep_distances(blobs):
    points = cluster.reduce(blobs[0], 0)
    assert points.shape == (600, 12)
    before, after = (np.linalg.norm(each[:50, None] - each[None, :50], axis=-1) for each in (blobs[0], points))
    assert np.allclose(before, after, atol=1e-4)


@pytest.mark.parametrize("method", ["kmeans", "som", "hdbscan"])
def test_clusters_are_those_that_were_made(blobs, method):
    found = cluster.fit_clusters(cluster.reduce(blobs[0], 0), [], method, 6, 0)
    assert adjusted_rand_score(blobs[1], found) > 0.75
    assert method == "hdbscan" or found.min() >= 0, "every point is in a cluster"


def test_clusters_are_numbered_along_the_tree(blobs):
    shuffled = np.random.default_rng(1).permutation(6)
    ordered, groups = cluster.order_by_tree(blobs[0], shuffled[blobs[1]].astype(np.int32))
    assert adjusted_rand_score(blobs[1], ordered) == 1
    assert abs(int(ordered[450]) - int(ordered[550])) == 1, "near clusters have near numbers"
    assert groups.tolist() == sorted(groups.tolist()) and set(groups) == set(range(groups.max() + 1))


def test_empty_clusters_and_points_in_none_are_left_out():
    points = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    ordered, groups = cluster.order_by_tree(points, np.repeat([-1, 4, 9], 10).astype(np.int32))
    assert (ordered[:10] == -1).all() and set(ordered[10:]) == {0, 1} and len(groups) == 2


def test_the_mixture_is_sure_inside_and_unsure_between(blobs):
    points, owners = blobs
    between = (points[400:401] + points[500:501]) / 2
    clusters = np.append(owners, 4).astype(np.int32)
    found = cluster.fit_mixture(np.concatenate([points, between, points[:1] + 9]), np.append(clusters, 0), 0)
    assert np.median(found["membership"][:400]) > 0.99
    assert {4, 5} == {4, int(found["other"][600])} and found["membership"][600] < 1
    assert found["density"][601] < found["density"][:600].min(), "a point far away has the lowest density"


def test_stability_is_high_for_clear_clusters_and_low_for_noise(blobs):
    def stability(points: np.ndarray) -> float:
        clusters, groups = cluster.order_by_tree(points, cluster.fit_kmeans(points, 6, 0))
        found = cluster.measure_clusters(points, clusters, groups, [], "kmeans", 0)
        assert found["cluster_stability"].shape == (6,) and (found["cluster_stability"] <= 1).all()
        return float(found["stability"][0])

    assert stability(np.random.default_rng(0).normal(size=(600, 12)).astype(np.float32)) < 0.5 < stability(blobs[0])


def test_hdbscan_has_no_seed_and_so_no_stability(blobs):
    clusters, groups = cluster.order_by_tree(blobs[0], cluster.fit_clusters(blobs[0], [], "hdbscan", 6, 0))
    found = cluster.measure_clusters(blobs[0], clusters, groups, [], "hdbscan", 0)
    for key in ("stability", "group_stability", "cluster_stability"):
        assert np.isnan(found[key]).all(), key
    assert (found["silhouette"] > 0).any()


def test_the_stability_of_a_sample_is_that_of_two_fits_of_it(blobs, monkeypatch):
    points, owners = blobs[0][:500], blobs[1][:500].astype(np.int32)
    clusters, groups = cluster.order_by_tree(points, owners)
    monkeypatch.setattr(cluster, "MAX_MEASURED", 200)
    found = cluster.measure_clusters(points, clusters, np.zeros_like(groups), [], "kmeans", 0)
    assert found["stability"] > 0.7 and found["group_stability"] > 0.7, "the groups given are not those of the sample"
    assert found["cluster_stability"].shape == (5,) and np.median(found["cluster_stability"]) > 0.9


def test_more_clusters_than_units_or_inputs_are_no_error(blobs):
    points = blobs[0][:12]
    assert len(np.unique(cluster.fit_clusters(blobs[0], [], "som", 500, 0))) <= cluster.SOM_SIDE**2
    clusters, groups = cluster.order_by_tree(points, np.arange(12, dtype=np.int32))
    found = cluster.measure_clusters(points, clusters, groups, [], "kmeans", 0)
    assert np.isnan(found["silhouette"]).all() and found["stability"] == 1


def test_neighbors_and_duplicates_are_those_of_a_plain_search():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(80, 4)).astype(np.float32)
    vectors[40:43] = vectors[0] + 0.001 * rng.normal(size=(3, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cells = (np.arange(80) % 40 >= 20).astype(np.int32)
    found = neighbors.search_cells(vectors, cells, 0.999)
    for index in range(80):
        others = np.array([other for other in range(80) if other != index and cells[other] == cells[index]])
        order = others[np.argsort(-(vectors[others] @ vectors[index]), kind="stable")]
        assert found["neighbors"][index].tolist() == order[:5].tolist()
        tenth = np.linalg.norm(vectors[order[9]] - vectors[index])
        assert found["distance"][index] == pytest.approx(tenth, abs=1e-3)
    assert np.flatnonzero(found["duplicate_of"] == 0).tolist() == [0, 40, 41, 42]


def test_an_index_finds_nearly_all_neighbors_and_the_same_duplicates():
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(60, 16)), 50, axis=0) + 0.4 * rng.normal(size=(3_000, 16))
    vectors[40:43] = vectors[0] + 0.0001 * rng.normal(size=(3, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    exact = neighbors.search_cells(vectors, np.zeros(3_000, np.int32), 0.9999)
    found = neighbors.search_index(vectors, 0.9999)
    shared = [len(set(a) & set(b)) / 5 for a, b in zip(exact["neighbors"], found["neighbors"], strict=True)]
    assert np.mean(shared) > 0.9 and (found["duplicate_of"] == exact["duplicate_of"]).all()
    assert np.abs(found["distance"] - exact["distance"]).mean() < 0.02
    assert not (found["neighbors"] == np.arange(3_000)[:, None]).any(), "an input is no neighbor of itself"
    assert not neighbors.uses_index(200_000)


def test_many_equal_texts_are_one_group_of_few_links(monkeypatch):
    monkeypatch.setattr(neighbors, "MAX_LINKS", 3)
    vectors = np.repeat(np.eye(3, dtype=np.float32), [40, 1, 30], axis=0)
    is_similar = vectors @ vectors.T > 0.9
    rows, columns = neighbors.find_links(is_similar.copy())
    assert np.bincount(rows).max() == 3 and is_similar[rows, columns].all()
    found = neighbors.search_cells(vectors, np.zeros(71, np.int32), 0.9)["duplicate_of"]
    assert (found[:40] == 0).all() and found[40] == -1 and (found[41:] == 41).all()


def test_a_large_cell_of_equal_texts_takes_no_time_of_its_square():
    vectors = np.tile(np.eye(1, 8, dtype=np.float16), (100_000, 1))
    vectors[7:9] = np.eye(8)[1:3]
    start = time.process_time()
    found = neighbors.search_cells(vectors, np.zeros(100_000, np.int32), 0.9)
    assert time.process_time() - start < 10
    equal = np.setdiff1d(np.arange(100_000), [7, 8])
    assert (found["duplicate_of"][equal] == 0).all() and (found["duplicate_of"][7:9] == -1).all()
    assert (found["distance"][equal] == 0).all() and (found["distance"][7:9] > 1).all()
    assert np.isin(found["neighbors"][equal], equal).all() and (found["neighbors"] != np.arange(100_000)[:, None]).all()


def test_a_large_cell_is_compared_in_parts(blobs, monkeypatch):
    vectors = (blobs[0] / np.linalg.norm(blobs[0], axis=1, keepdims=True)).astype(np.float16)
    whole = neighbors.search_cells(vectors, np.zeros(600, np.int32), 0.99)
    sizes, compare = [], neighbors.compare_all
    monkeypatch.setattr(neighbors, "MAX_COMPARED", 250)
    monkeypatch.setattr(neighbors, "compare_all", lambda *args: (sizes.append(len(args[2])), compare(*args)))
    parts = neighbors.search_cells(vectors, np.zeros(600, np.int32), 0.99)
    assert sizes == [200, 200, 200]
    shared = [len(set(a) & set(b)) / 5 for a, b in zip(whole["neighbors"], parts["neighbors"], strict=True)]
    assert np.mean(shared) > 0.7 and (parts["distance"] >= whole["distance"] - 1e-5).all()  # but for rounding


def test_duplicates_are_linked_through_others():
    assert neighbors.group_pairs(np.array([[1, 3], [3, 4]]), 6).tolist() == [-1, 1, -1, 1, 1, -1]
    assert neighbors.group_pairs(np.zeros((2, 0), int), 3).tolist() == [-1, -1, -1]


def test_the_odd_are_far_and_in_thin_regions():
    oddness = neighbors.rank_oddness(np.array([0.1, 0.2, 0.9]), np.array([5.0, 6.0, -9.0]))
    assert oddness.argmax() == 2 and oddness[2] == 1
    equal = neighbors.rank_oddness(np.array([0.0, 0.0, 0.0, 0.9]), np.array([5.0, 5.0, 5.0, -9.0]))
    assert equal[0] == equal[1] == equal[2] < equal[3] == 1


TEXTS = ["the cat sat on the mat", "the cat ate", "the rain fell in spring", "the rain and the sun", "the sun rose"]


def test_names_are_the_words_of_a_cluster_alone():
    texts, owners = [*TEXTS * 5, *["the tax form is due", "the tax office"] * 5], [0, 0, 1, 1, 1] * 5 + [2] * 10
    found = names.name_clusters(texts, np.array(owners, np.int32), 3, 0)
    assert "cat" in found[0] and ("rain" in found[1] or "sun" in found[1]) and "tax" in found[2]
    assert not any("the" in name.split(", ") for name in found)


def test_names_in_a_script_without_spaces():
    texts = ["猫坐在垫子上", "猫吃了鱼", "春天下雨了", "下雨和太阳"] * 10
    found = names.name_clusters(texts, np.array([0, 0, 1, 1] * 10, np.int32), 2, 0)
    assert all(found) and found[0] != found[1] and "下雨" in found[1]


def test_clusters_without_words_have_a_number():
    assert names.name_clusters(["1 2", "3 !"], np.array([0, 1], np.int32), 2, 0) == ["cluster 0", "cluster 1"]


def test_typical_inputs_are_in_the_middle(blobs):
    typicality, typical = names.find_typical(blobs[0], blobs[1], 6)
    for number, indices in enumerate(typical):
        members = np.flatnonzero(blobs[1] == number)
        distances = np.linalg.norm(blobs[0][members] - blobs[0][members].mean(0), axis=1)
        assert indices[0] == members[distances.argmin()] and typicality[indices[0]] == 1


@pytest.mark.parametrize("method", ["tsne", "pca", "som"])
def test_positions_keep_clusters_together(blobs, method, monkeypatch):
    monkeypatch.setattr(layout, "MAX_LANDMARKS", 300)
    points = cluster.reduce(blobs[0], 0)
    positions = layout.make_layout(points, blobs[1].astype(np.int32), method, 0)
    assert positions.shape == (600, 2) and np.abs(positions).max() <= 1
    nearest = np.linalg.norm(positions[:, None] - positions[None], axis=-1) + 9 * np.eye(600)
    assert (blobs[1][nearest.argmin(1)] == blobs[1]).mean() > 0.8
    assert (layout.make_layout(points, blobs[1].astype(np.int32), method, 0) == positions).all()


def test_umap_is_named_where_it_is_not_installed(blobs, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(ConfigError, match="layout=umap needs the package umap-learn"):
        layout.make_layout(blobs[0], blobs[1].astype(np.int32), "umap", 0)


def test_hdbscan_is_refused_for_many(monkeypatch):
    monkeypatch.setattr(cluster, "MAX_HDBSCAN", 10)
    with pytest.raises(ConfigError, match="clusters=hdbscan: for at most 10 inputs, not 20"):
        cluster.fit_clusters(np.zeros((20, 3), np.float32), [], "hdbscan", 2, 0)


def test_hdbscan_that_finds_only_noise_is_one_line(blobs, monkeypatch):
    points = np.random.default_rng(0).normal(size=(40, 15)).astype(np.float32)
    found = cluster.fit_clusters(points, [], "hdbscan", 2, 0)
    assert (found == -1).all()
    with pytest.raises(ConfigError, match="clusters=hdbscan: found no cluster; use clusters=kmeans"):
        cluster.order_by_tree(points, found)
    clusters, groups = cluster.order_by_tree(blobs[0], blobs[1].astype(np.int32))
    monkeypatch.setattr(cluster, "fit_clusters", lambda points, *_: np.full(len(points), -1, np.int32))
    measures = cluster.measure_clusters(blobs[0], clusters, groups, [], "hdbscan", 0)
    assert np.isnan(measures["stability"]).all() and not np.isnan(measures["silhouette"]).any()


def test_lda_of_texts_without_words_of_their_own_is_one_line():
    with pytest.raises(ConfigError, match="clusters=lda: too few words are in several texts; use clusters=kmeans"):
        cluster.fit_clusters(np.zeros((20, 3), np.float32), ["no comment"] * 20, "lda", 2, 0)
