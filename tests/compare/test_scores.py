"""Which trials an entry has, and what becomes of one that fails."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from compare import scores
from compare.scores import Entry, list_trials, measure
from engine.errors import CommandExit, DataError
from finetune.study.trials import Trial

STUDY = SimpleNamespace(seed=10, task=SimpleNamespace(name="spam"))
VARIANTS = ("onehot", "tfidf", "probe", "ours", "plain", "random")


class FakeTrials:
    """The trials of a study with four seeds, without training."""

    def __init__(self, encoder: str, error: Exception | None = None):
        self.encoder, self.error = encoder, error

    def list_trials(self) -> list[Trial]:
        return [Trial(variant, 8, 10 + seed, 16, 5) for seed in range(4) for variant in VARIANTS]

    def load_result(self, trial: Trial) -> None:
        return None

    def run_trial(self, trial: Trial) -> dict:
        if self.error:
            raise self.error
        return {**trial._asdict(), "score": 0.5, "correct": "10"}


def test_pretrainings_share_the_seeds_out_among_them():
    entry = Entry("mlm", ["first", "second"])
    found = [(trials.encoder, trial.seed, trial.variant) for trials, trial in list_trials(STUDY, entry, FakeTrials)]
    assert sorted(found) == sorted(
        (encoder, seed, variant)
        for encoder, seeds in (("first", (10, 12)), ("second", (11, 13)))
        for seed in seeds
        for variant in ("ours", "probe")
    )


@pytest.fixture
def measure_with(monkeypatch, tmp_path):
    """Measure two entries of which some fail."""
    monkeypatch.setattr(scores, "read_task", lambda *_, **__: {"train": [], "test": []})
    monkeypatch.setattr(scores, "find_test_rows", lambda *_: ({"num_measured_rows": 2}, [0, 1]))
    names = SimpleNamespace(describe_features=lambda _: "TF-IDF", describe_one_hot=lambda _: "one-hot words")
    monkeypatch.setattr(scores, "load_modality", lambda _: names)

    def run(errors: dict[str, Exception]) -> scores.Scores:
        monkeypatch.setattr(scores, "Trials", lambda study, encoder, *_: FakeTrials(encoder, errors.get(encoder)))
        entries = [Entry("start", ["start"], ("ours", "probe", "random", "tfidf")), Entry("mlm", ["mlm"])]
        return measure(STUDY, entries, {}, tmp_path)

    return run


def test_an_encoder_that_fails_is_left_out_with_the_reason(measure_with):
    found = measure_with({"mlm": DataError("weights are not finite\nmore")})
    assert found.failed == {"mlm": "weights are not finite"}
    assert found.curves["finetuned"].keys() == {"start", "random"} and found.curves["probe"].keys() == {
        "start",
        "tfidf",
    }
    whole = measure_with({})
    assert not whole.failed and [len(whole.curves[use]["mlm"][0]["correct"]) for use in whole.curves] == [4, 4]


def test_a_start_that_fails_and_a_stop_end_the_command(measure_with):
    with pytest.raises(DataError):
        measure_with({"start": DataError("no rows")})
    with pytest.raises(CommandExit):
        measure_with({"mlm": CommandExit("", 143)})
