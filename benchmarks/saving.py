"""Measure the cost of checkpoints: pretraining that saves every 50 steps compared with pretraining that never saves.

    python benchmarks/saving.py [config=scratch] [rounds=3] [seconds=60] [key=value ...]

The two alternate (benchmarks/turns.py) in turns that are long enough for several checkpoints. Writes its section of
benchmarks/RESULTS.md.
"""

from __future__ import annotations

import statistics
import sys

import results
import turns

SAVE_EVERY = {"never": 1_000_000, "every 50 steps": 50}


def main(args: list[str]) -> None:
    """Run the benchmark, or with `worker` one contender."""
    if args[:1] == ["worker"]:
        return turns.run_contender(
            [*args[2:], f"train.save_every={SAVE_EVERY[args[1]]}"], lambda batch: batch.num_tokens
        )
    options, rest = results.parse_options(args, config="scratch", rounds="3", seconds="60")
    config, rounds, seconds = options["config"], int(options["rounds"]), float(options["seconds"])
    pretrain_args = [f"configs/pretrain/{config}.yaml", *rest]
    measurements = turns.compare_contenders(__file__, list(SAVE_EVERY), rounds, seconds, pretrain_args)
    rates = {name: measurements[name]["rates"] for name in SAVE_EVERY}
    never, often = map(statistics.median, rates.values())
    rows = [[name, *turns.summarize_rates(values)] for name, values in rates.items()]
    text = results.markdown_table(["checkpoints", "tokens/s", "range"], rows)
    text += f"\n\nA checkpoint every 50 steps costs {1 - often / never:.1%} of the tokens per second."
    print(text)
    results.write_section(f"Cost of checkpoints, {config}", " ".join(["python benchmarks/saving.py", *args]), text)


if __name__ == "__main__":
    main(sys.argv[1:])
