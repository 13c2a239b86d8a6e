"""Clusters: k-means cells in a Ward tree, soft membership and density by a Gaussian mixture, and how stable they are.

Every input is in a cluster. The silhouette and the stability between two seeds are reported; neither chooses anything.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from sklearn.cluster import HDBSCAN, KMeans, MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, silhouette_samples
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from data.tasks.tfidf import tfidf_vectorizer
from engine.errors import ConfigError
from explore.choose import sample_indices

PCA_DIMS, MIXTURE_DIMS = 50, 20
BLOCK = 20_000
MAX_FITTED = 50_000  # inputs that PCA and the mixture are fitted on
MAX_BATCH_KMEANS = 200_000  # inputs up to which k-means reads all at every pass
INPUTS_PER_CLUSTER, MIN_CLUSTERS, MAX_CLUSTERS = 100, 8, 200
NUM_GROUPS = 8
MAX_MEASURED = 20_000  # inputs for the stability
MAX_SILHOUETTE = 4_000
MAX_HDBSCAN = 20_000
SOM_SIDE, SOM_PASSES = 20, 10
FIT_STREAM, MEASURE_STREAM, SILHOUETTE_STREAM = 2**36 + 2, 2**36 + 3, 2**36 + 4


def iter_blocks(vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (start, float32 block) of vectors."""
    for start in range(0, len(vectors), BLOCK):
        yield start, vectors[start : start + BLOCK].astype(np.float32)


def reduce(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Return the vectors by principal components, float32 (inputs, at most PCA_DIMS)."""
    sample = vectors[sample_indices(np.arange(len(vectors)), MAX_FITTED, seed, FIT_STREAM)].astype(np.float32)
    dims = min(PCA_DIMS, *sample.shape)
    pca = PCA(dims, svd_solver="covariance_eigh").fit(sample)
    return np.concatenate([pca.transform(block) for _, block in iter_blocks(vectors)]).astype(np.float32)


def choose_num_clusters(num_inputs: int) -> int:
    """Return the number of clusters: one for INPUTS_PER_CLUSTER inputs, within limits."""
    wanted = max(MIN_CLUSTERS, min(MAX_CLUSTERS, num_inputs // INPUTS_PER_CLUSTER))
    return max(2, min(wanted, num_inputs // 5))


def fit_kmeans(points: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the cluster of each point, int32 (points,)."""
    if len(points) > MAX_BATCH_KMEANS:
        model = MiniBatchKMeans(count, batch_size=8_192, n_init=1, random_state=seed)
    else:
        model = KMeans(count, n_init=1, random_state=seed)
    with threadpool_limits(1, user_api="openmp"):  # several threads add in any order, which changes the last digits
        return model.fit_predict(points).astype(np.int32)


def fit_som(points: np.ndarray, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (unit of each point, vectors of the units (side * side, dims)) of a self-organizing map (Kohonen 1982).

    Batch training: each pass replaces every unit by the mean of all points, weighted by the distance on the grid.
    """
    sample = points[sample_indices(np.arange(len(points)), MAX_FITTED, seed, FIT_STREAM)]
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
    distances = np.square(grid[:, None] - grid[None]).sum(-1)
    scale = sample[:, :2].std(0)
    units = np.tile(sample.mean(0), (side * side, 1))  # the plane of the first two components
    units[:, :2] += (2 * grid / (side - 1) - 1) * 2 * scale
    for radius in np.linspace(side / 2, 0.7, SOM_PASSES):
        weights = np.exp(-distances / (2 * radius**2))
        nearest = nearest_rows(sample, units)
        sums, counts = sum_by_cluster(sample, nearest, len(units))
        units = (weights @ sums) / np.maximum(weights @ counts, 1e-12)[:, None]
    return nearest_rows(points, units), units.astype(np.float32)


def nearest_rows(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return the index of the nearest center of each point, int32 (points,)."""
    half_norms = 0.5 * np.square(centers).sum(1)
    blocks = [(half_norms - block @ centers.T).argmin(1) for _, block in iter_blocks(points)]
    return np.concatenate(blocks).astype(np.int32)


def sum_by_cluster(points: np.ndarray, clusters: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (sums (count, dims), number of points (count,)) of clusters; points of cluster -1 are in none."""
    kept = np.flatnonzero(clusters >= 0)
    order = kept[np.argsort(clusters[kept], kind="stable")]
    bounds = np.searchsorted(clusters[order], np.arange(count + 1))
    sums = np.stack([points[order[a:b]].sum(0, dtype=np.float64) for a, b in zip(bounds, bounds[1:], strict=False)])
    return sums, np.diff(bounds)


def fit_lda(texts: list[str], count: int, seed: int) -> np.ndarray:
    """Return the most probable topic of each text by latent Dirichlet allocation (Blei et al. 2003), int32 (texts,).

    Raises ConfigError for texts without words to tell them apart by.
    """
    from sklearn.decomposition import LatentDirichletAllocation
    from sklearn.feature_extraction.text import CountVectorizer

    options = tfidf_vectorizer(texts[:1_000], (1, 1)).get_params()
    shared = {name: options[name] for name in ("analyzer", "ngram_range", "token_pattern")}
    try:
        counts = CountVectorizer(**shared, max_df=0.2, min_df=2, max_features=20_000).fit_transform(texts)
    except ValueError:  # no word is left
        raise ConfigError("clusters=lda: too few words are in several texts; use clusters=kmeans") from None
    model = LatentDirichletAllocation(count, learning_method="online", batch_size=2_048, random_state=seed)
    return model.fit_transform(counts).argmax(1).astype(np.int32)


def fit_clusters(points: np.ndarray, texts: list[str], method: str, count: int, seed: int) -> np.ndarray:
    """Return the cluster of each point by a method of the configuration, int32 (points,); -1: none, by HDBSCAN."""
    if method == "kmeans":
        return fit_kmeans(points, count, seed)
    if method == "lda":
        return fit_lda(texts, count, seed)
    if method == "hdbscan":
        if len(points) > MAX_HDBSCAN:
            raise ConfigError(f"clusters=hdbscan: for at most {MAX_HDBSCAN:,} inputs, not {len(points):,}")
        model = HDBSCAN(min_cluster_size=max(5, len(points) // 200), copy=True)
        return model.fit_predict(points[:, :15].astype(np.float64)).astype(np.int32)
    units, centers = fit_som(points, SOM_SIDE, seed)
    with threadpool_limits(1, user_api="openmp"):
        model = KMeans(min(count, len(centers)), n_init=1, random_state=seed)
        return model.fit_predict(centers)[units].astype(np.int32)


def order_by_tree(points: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (clusters numbered along a Ward tree over their means, group of each cluster).

    Groups are the branches of the tree, at most NUM_GROUPS. Empty clusters get no number; -1 stays. Raises ConfigError
    if no point is in a cluster.
    """
    kept = np.unique(clusters[clusters >= 0])
    if not len(kept):
        raise ConfigError("clusters=hdbscan: found no cluster; use clusters=kmeans")
    renumbered = np.searchsorted(kept, clusters).astype(np.int32)
    renumbered[clusters < 0] = -1
    sums, counts = sum_by_cluster(points, renumbered, len(kept))
    if len(kept) < 2:
        return renumbered, np.zeros(len(kept), np.int32)
    tree = linkage(sums / counts[:, None], "ward", optimal_ordering=True)
    leaves = leaves_list(tree)
    groups = fcluster(tree, min(NUM_GROUPS, len(kept)), "maxclust")[leaves]
    rank = np.empty(len(kept), np.int32)
    rank[leaves] = np.arange(len(kept))
    ordered = np.where(renumbered >= 0, rank[renumbered], -1).astype(np.int32)
    _, numbered = np.unique(groups, return_index=True)
    by_order = {groups[index]: number for number, index in enumerate(np.sort(numbered))}
    return ordered, np.array([by_order[group] for group in groups], np.int32)


def fit_mixture(points: np.ndarray, clusters: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return soft membership and density by a Gaussian mixture that starts from the clusters.

    membership: probability of the own cluster, float32 (inputs,); other: the next likeliest cluster, int32 (inputs,);
    density: log-likelihood, float32 (inputs,); bic: float64 (1,), on the inputs it was fitted on.
    """
    points = points[:, :MIXTURE_DIMS]
    count = int(clusters.max()) + 1
    chosen = sample_indices(np.flatnonzero(clusters >= 0), MAX_FITTED, seed, FIT_STREAM)
    sample, owners = points[chosen].astype(np.float64), clusters[chosen]
    sums, counts = sum_by_cluster(sample, owners, count)
    squares, _ = sum_by_cluster(np.square(sample), owners, count)
    total = np.maximum(counts, 1)[:, None]
    floor = np.maximum(0.1 * sample.var(0), 1e-12)  # a cluster of a few equal inputs has no variance
    variances = np.maximum(squares / total - np.square(sums / total), floor)
    model = GaussianMixture(
        count,
        covariance_type="diag",
        reg_covar=float(floor.mean()),
        max_iter=20,
        init_params="random_from_data",
        weights_init=(counts + 1) / (counts + 1).sum(),
        means_init=sums / total,
        precisions_init=1 / variances,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a few passes are enough for what it is used for
        model.fit(sample)
    membership, other, density = [], [], []
    for start, block in iter_blocks(points):
        own = np.maximum(clusters[start : start + len(block)], 0)
        probabilities = model.predict_proba(block.astype(np.float64))
        membership.append(probabilities[np.arange(len(block)), own])
        probabilities[np.arange(len(block)), own] = -1
        other.append(probabilities.argmax(1))
        density.append(model.score_samples(block.astype(np.float64)))
    return {
        "membership": np.concatenate(membership).astype(np.float32),
        "other": np.concatenate(other).astype(np.int32),
        "density": np.concatenate(density).astype(np.float32),
        "bic": np.array([model.bic(sample)]),
    }


def measure_clusters(
    points: np.ndarray, clusters: np.ndarray, groups: np.ndarray, texts: list[str], method: str, seed: int
) -> dict[str, np.ndarray]:
    """Return how stable and how separate the clusters are, NaN for what is not known.

    stability, group_stability: adjusted Rand index with the clusters of another seed, float64 (1,); cluster_stability:
    the largest Jaccard similarity of each with one of those; silhouette: mean of each, float64 (clusters,). HDBSCAN has
    no seed, and so no stability.
    """
    chosen = sample_indices(np.flatnonzero(clusters >= 0), MAX_MEASURED, seed, MEASURE_STREAM)
    small = sample_indices(chosen, MAX_SILHOUETTE, seed, SILHOUETTE_STREAM)
    measures = {"stability": np.full(1, np.nan), "group_stability": np.full(1, np.nan)}
    measures |= {key: np.full(len(groups), np.nan) for key in ("cluster_stability", "silhouette")}
    kept = np.unique(clusters[small])
    if 1 < len(kept) < len(small):  # it needs a cluster of several inputs
        values = silhouette_samples(points[small], clusters[small])
        for cluster in kept:
            measures["silhouette"][cluster] = values[clusters[small] == cluster].mean()
    if method == "hdbscan":
        return measures
    chosen_texts = [texts[index] for index in chosen] if method == "lda" else []

    def fit_chosen(seed: int) -> tuple[np.ndarray, np.ndarray]:
        return order_by_tree(points[chosen], fit_clusters(points[chosen], chosen_texts, method, len(groups), seed))

    again, again_groups = fit_chosen(seed + 1)
    # Both from the same inputs.
    first, first_groups = fit_chosen(seed) if len(chosen) < len(clusters) else (clusters, groups)
    table = np.zeros((len(groups), len(again_groups)))
    np.add.at(table, (clusters[chosen], again), 1)
    union = table.sum(1, keepdims=True) + table.sum(0) - table
    return measures | {
        "stability": np.array([adjusted_rand_score(first, again)]),
        "group_stability": np.array([adjusted_rand_score(first_groups[first], again_groups[again])]),
        "cluster_stability": (table / np.maximum(union, 1)).max(1),
    }
