"""Collapsed embeddings: those of all inputs are alike, or have too few dimensions to distinguish inputs."""

from engine.log import warn_once

MAX_RANK_LOSS = 4.0  # ratio of the effective rank at the start to the current one, from which a collapse is reported


class CollapseMonitor:
    """Compares validations with the first: of a new network's initial weights, or else the first of this process."""

    def __init__(self):
        self.first: dict[str, float] | None = None

    def check(self, metrics: dict[str, float]) -> None:
        """Warn once if the effective rank has fallen to a quarter, and retrieval has not risen.

        metrics: of `pretrain.validation.retrieval_metrics`. A low rank alone is no collapse: embeddings lose what the
        views do not share.
        """
        if "effective_rank" not in metrics:
            return
        if self.first is None:
            self.first = metrics
            return
        first, rank = self.first["effective_rank"], metrics["effective_rank"]
        before, now = self.first["retrieval_acc@1"], metrics["retrieval_acc@1"]
        if rank < first / MAX_RANK_LOSS and now <= before:
            warn_once(
                f"warning: the embeddings collapse: their effective rank fell from {first:.1f} to {rank:.1f}, retrieval"
                f" from {before:.3f} to {now:.3f}; try a lower train.lr, weaker views, or objective.name=contrastive"
                " with a larger train.batch_size",
                "collapse of embeddings",
            )
