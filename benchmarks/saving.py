"""What saving costs: pretraining that saves every 50 steps beside the same that never does, in turns.

    python benchmarks/saving.py [config=scratch] [rounds=3] [seconds=60] [key=value ...]

Turns as in benchmarks/turns.py, long enough for several checkpoints. Writes its section of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
import turns  # noqa: E402

SAVE_EVERY = {"never": 1_000_000, "every 50 steps": 50}


def main(args: list[str]) -> None:
    if args[:1] == ["worker"]:
        return turns.run_contender([*args[2:], f"train.save_every={SAVE_EVERY[args[1]]}"], lambda batch: batch.tokens)
    import results

    own = dict(word.split("=", 1) for word in args if word.split("=")[0] in ("config", "rounds", "seconds"))
    rest = [f"configs/pretrain/{own.get('config', 'scratch')}.yaml", *(w for w in args if w.split("=")[0] not in own)]
    found = turns.compare_contenders(__file__, list(SAVE_EVERY), int(own.get("rounds", 3)), float(own.get("seconds", 60)), rest)
    rates = {name: found[name]["rates"] for name in SAVE_EVERY}
    never, often = (statistics.median(each) for each in rates.values())
    text = results.markdown_table(
        ["saved", "tokens/s", "over the rounds"],
        [
            [name, f"{statistics.median(each):,.0f}", f"{min(each):,.0f} to {max(each):,.0f}"]
            for name, each in rates.items()
        ],
    )
    text += f"\n\nSaving every 50 steps costs {1 - often / never:.1%} of the tokens a second."
    print(text)
    results.write_section(
        f"What saving costs, {own.get('config', 'scratch')}", " ".join(["python benchmarks/saving.py", *args]), text
    )


if __name__ == "__main__":
    main(sys.argv[1:])
