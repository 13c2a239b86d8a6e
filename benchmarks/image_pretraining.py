"""Compare contrastive pretraining on images with lightly (1.6, MIT): same network, pixels, batch, optimizer, precision.

    pip install --no-deps --target FOLDER lightly==1.6.0 lightly-utils torchvision lightning-utilities
    python benchmarks/pretraining.py images lightly=FOLDER [rounds=3] [seconds=10] [workers=0,2] [key=value ...]

Contenders are processes that alternate in turns. lightly runs its recipe of SimCLR: its transform in a DataLoader with
so many worker processes, its projection head and loss. Also reported is the fraction of our step outside the network:
views, loss, optimizer and loop. Without lightly=FOLDER, ours runs alone. Writes its section of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import statistics
import sys
import time

import results
import turns

CONFIG = ["configs/pretrain/images-scratch.yaml", "pixels.channels=3", "pixels.size=32", "views.gray_prob=0.2"]
TEMPERATURE = 0.2


def run_ours(args: list[str]) -> None:
    """Run our command as a contender."""
    turns.run_contender(args, lambda batch: batch.num_tokens, measure_network_share)


def measure_network_share(module, config, batch, on_gpu: bool) -> float:
    """Print and return the fraction of a step's time that the network's forward and backward pass take."""
    import torch

    from engine.training.distributed import make_accelerator

    accelerator, encoder = make_accelerator(config.train.precision), module.encoder.train()
    views = encoder.make_views(batch.inputs["pixels"], batch.inputs["view_params"])

    def network() -> None:
        with accelerator.autocast():
            encoder.embed_images(views).sum().backward()
        module.zero_grad()

    def step() -> None:
        with accelerator.autocast():
            loss = module(**batch.inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    optimizer = torch.optim.AdamW(module.parameters(), lr=0.0, weight_decay=0.0, fused=True)
    seconds = {}
    for name, function in (("network", network), ("step", step)):
        function()
        start = time.process_time()
        for _ in range(5):
            function()
        seconds[name] = (time.process_time() - start) / 5
    return seconds["network"] / seconds["step"]


def import_lightly(folder: str) -> None:
    """Make lightly importable; torchvision without its compiled operators needs their names alone."""
    import torch

    sys.path.append(folder)
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
    globals()["library"] = library  # which must outlive this function


def run_lightly(folder: str, num_workers: int, args: list[str]) -> None:
    """Run lightly's recipe of SimCLR as a contender."""
    import torch
    from PIL import Image

    import_lightly(folder)
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform

    from data.images.processor import Processor
    from data.images.shards import PixelShards, prepare_pixels
    from engine.config.loader import load_config
    from engine.training.distributed import make_accelerator
    from pretrain.config import Pretrain
    from pretrain.model.image_encoder import image_encoder_from_config

    config = load_config(Pretrain.choose_schema({"modality": "images"}), args)
    size = config.pixels.size
    pixels = PixelShards(prepare_pixels(config.corpus, size, config.pixels.channels), "train").pixels
    transform = SimCLRTransform(
        input_size=size, cj_strength=0.5, min_scale=config.views.min_area, gaussian_blur=0.0, random_gray_scale=0.2
    )

    class Pictures(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(pixels)

        def __getitem__(self, index: int):
            return transform(Image.fromarray(pixels[index]))

    batch_size, accelerator = config.train.batch_size, make_accelerator(config.train.precision)
    loader = torch.utils.data.DataLoader(Pictures(), batch_size, True, num_workers=num_workers, drop_last=True)
    torch.manual_seed(0)
    model = image_encoder_from_config(config.model, Processor(size), 0.0).model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.track_running_stats = True
    head, loss_function = SimCLRProjectionHead(config.model.hidden_size, 256, 128), NTXentLoss(TEMPERATURE)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-3, fused=True)
    turn_taker = turns.TurnTaker(0.0)
    while True:
        for views in loader:
            with accelerator.autocast():
                images = (view.contiguous(memory_format=torch.channels_last) for view in views)
                first, second = (head(model(pixel_values=each).pooler_output.flatten(1)) for each in images)
                loss = loss_function(first.float(), second.float())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            turn_taker.record_step(batch_size)


def run_worker(name: str, args: list[str]) -> None:
    """Run the contender of this name: `ours`, or `lightly|FOLDER|WORKERS`."""
    kind, *rest = name.split("|")
    if kind == "ours":
        return run_ours(args)
    run_lightly(rest[0], int(rest[1]), args)


def main(args: list[str]) -> None:
    """Run the benchmark, or with `worker` one contender."""
    if args[:1] == ["worker"]:
        return run_worker(args[1], args[2:])
    options, rest = results.parse_options(args, lightly=None, rounds="3", seconds="10", workers="0,2")
    names = ["ours"]
    if options["lightly"]:
        names += [f"lightly|{options['lightly']}|{workers}" for workers in options["workers"].split(",")]
    measured = turns.compare_contenders(
        __file__, names, int(options["rounds"]), float(options["seconds"]), [*CONFIG, *rest]
    )
    ours, rows = statistics.median(measured["ours"]["rates"]), []
    for name in names:
        report, (kind, *details) = measured[name], name.split("|")
        title = f"{kind}, {details[1]} workers" if details else kind
        ratio = f"{ours / statistics.median(report['rates']):.2f}"
        outside = f"{1 - report['flops_per_item']:.0%}" if kind == "ours" else ""
        rows.append(
            [title, *turns.summarize_rates(report["rates"]), ratio, outside, f"{report['peak_bytes'] / 1e6:,.0f}"]
        )
    print("\n".join("  ".join(f"{cell:>16}" for cell in row) for row in rows), flush=True)
    header = ["", "images/s", "range", "ours / this", "of a step outside the network", "peak MB"]
    command = " ".join(["python benchmarks/pretraining.py images", *rest])
    results.write_section("Speed of contrastive pretraining on images", command, results.markdown_table(header, rows))


if __name__ == "__main__":
    main(sys.argv[1:])
