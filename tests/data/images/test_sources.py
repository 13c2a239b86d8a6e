"""Images from folders, tables, archives and shards: the same images and labels from each; what is left out is named."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import time
import zipfile

import numpy as np
import pytest
from PIL import Image
from test_decode import encode, photograph

from data.cache import read_manifest
from data.images import hashes
from data.images.config import ImageCorpus, ImageSource, Pixels
from data.images.shards import PixelShards, prepare_pixels
from data.images.sources import fingerprint_inputs as source_inputs, iter_images
from data.images.task import ImageStore, ImageTask
from data.tasks.task import fingerprint_inputs, read_task
from engine.config.loader import validate
from engine.errors import ConfigError, DataError

NAMES = {"cat": (0, 1, 2), "dog": (3, 4)}


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Return a folder of class folders with five PNG files."""
    monkeypatch.chdir(tmp_path)
    for label, seeds in NAMES.items():
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for seed in seeds:
            photograph(40, 30, seed).save(tmp_path / "pictures" / label / f"{seed}.png")
    return tmp_path / "pictures"


def files(pictures):
    return [(path.parent.name, path) for path in sorted(pictures.rglob("*.png"))]


def make_csv(pictures):
    lines = [f"{path.relative_to(pictures)},{label}" for label, path in files(pictures)]
    (pictures / "labels.csv").write_text("\n".join(["image,label", *lines]))
    return {"files": str(pictures / "labels.csv")}


def make_parquet(pictures):
    import pyarrow
    import pyarrow.parquet

    rows = [{"photo": {"bytes": path.read_bytes(), "path": None}, "label": label} for label, path in files(pictures)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), pictures / "rows.parquet")
    return {"files": str(pictures / "rows.parquet"), "image": "photo"}


def make_tar(pictures):
    for number, part in enumerate((files(pictures)[:2], files(pictures)[2:])):
        with tarfile.open(pictures / f"shard-{number}.tar", "w") as archive:
            for label, path in part:
                for extension, content in (("png", path.read_bytes()), ("json", json.dumps({"label": label}).encode())):
                    member = tarfile.TarInfo(f"set/{path.stem}.{extension}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return {"tar": str(pictures / "shard-*.tar")}


def make_zip(pictures):
    with zipfile.ZipFile(pictures / "all.zip", "w") as archive:
        for label, path in files(pictures):
            archive.write(path, f"{label}/{path.name}")
    return {"folder": str(pictures / "all.zip")}


def make_glob(pictures):
    return {"files": str(pictures / "*" / "*.png")}


MAKERS = {"csv": make_csv, "parquet": make_parquet, "tar": make_tar, "zip": make_zip, "glob": make_glob}


@pytest.mark.parametrize("kind", MAKERS)
def test_the_same_images_from_every_kind_of_source(pictures, kind):
    def read(source):
        return [(image.columns["label"], hashes.pixel_hash(image.load())) for image in iter_images(source)]

    expected = read(ImageSource(folder=str(pictures)))
    assert [label for label, _ in expected] == ["cat"] * 3 + ["dog"] * 2 and len({key for _, key in expected}) == 5
    assert read(ImageSource(**MAKERS[kind](pictures))) == expected


def test_idx_files(tmp_path, monkeypatch):
    from sklearn.datasets import load_digits

    monkeypatch.chdir(tmp_path)
    digits = load_digits()
    pixels, labels = (digits.images[:50] * 15).astype(np.uint8), digits.target[:50].astype(np.uint8)
    header = b"\0\0\x08\x03" + np.array(pixels.shape, ">u4").tobytes()
    (tmp_path / "images.gz").write_bytes(gzip.compress(header + pixels.tobytes()))
    (tmp_path / "labels").write_bytes(b"\0\0\x08\x01" + np.array([50], ">u4").tobytes() + labels.tobytes())
    images = list(iter_images(ImageSource(idx="images.gz", idx_labels="labels")))
    assert [image.columns["label"] for image in images] == labels.astype(str).tolist()
    assert all(np.array_equal(image.load(), one) for image, one in zip(images, pixels, strict=True))
    (tmp_path / "short").write_bytes(header + b"\0" * 9)
    with pytest.raises(DataError, match=r"3,200 values, and it has 9"):
        list(iter_images(ImageSource(idx="short")))


def test_exactly_one_origin():
    for keys in ({}, {"folder": "a", "tar": "b"}):
        with pytest.raises(ConfigError, match="exactly one of wheel, hub, files, folder, tar, idx"):
            validate(ImageSource, keys)
    with pytest.raises(DataError, match=r"pixels: no such folder \(nearest: pictures\)|no such folder"):
        list(iter_images(ImageSource(folder="pixels")))


def test_what_cannot_be_used_is_named_and_counted(pictures):
    first = pictures / "cat" / "0.png"
    (pictures / "cat" / "broken.png").write_bytes(first.read_bytes()[:200])
    Image.new("RGB", (4, 40)).save(pictures / "cat" / "tiny.png")
    (pictures / "dog" / "again.png").write_bytes(first.read_bytes())
    (pictures / "dog" / "compressed.jpg").write_bytes(encode(Image.open(first), "JPEG", quality=80))
    corpus = ImageCorpus(name="some", sources=[{"folder": str(pictures)}], held_out=0.5)
    folder = prepare_pixels(corpus, 24)
    manifest = read_manifest(folder)
    counts = {"read": 9, "kept": 5, "broken": 1, "tiny": 1, "duplicates": 1, "near_duplicates": 1, "test_images": 0}
    assert manifest["summary"] == counts
    named = " ".join(manifest["dropped"])
    assert all(name in named for name in ("broken.png", "tiny.png", "again.png", "compressed.jpg"))
    train, held_out = (PixelShards(folder, split) for split in ("train", "held_out"))
    assert len(train) + len(held_out) == 5 and train.pixels.shape == (len(train), 24, 24, 3)
    assert prepare_pixels(corpus, 24) == folder and prepare_pixels(corpus, 32) != folder
    keys = {hashes.pixel_hash(image.load()) for image in iter_images(ImageSource(folder=str(pictures / "dog")))}
    assert keys & {*train.keys, *held_out.keys}
    only_dogs = corpus.model_copy(update={"sources": [ImageSource(folder=str(pictures / "dog"))]})
    (pictures / "dog" / "3.png").write_bytes(first.read_bytes())
    assert prepare_pixels(only_dogs, 24) != folder


def test_rows_of_a_task_have_the_key_of_their_pixels(pictures):
    def task(source):
        return ImageTask(name="pets", train=source, pixels=Pixels(size=24), test_fraction=0.3, validation_fraction=0.3)

    by_folder, by_table = task({"folder": str(pictures)}), task(make_csv(pictures))
    rows, same = read_task(by_folder, needs_validation=False), read_task(by_table, needs_validation=False)
    assert rows == same, "splits follow from the content of the images alone"
    example = rows["train"][0]
    pixels = ImageStore(by_table).read_pixels([example])
    assert pixels.shape == (1, 24, 24, 3) and np.array_equal(pixels, ImageStore(by_folder).read_pixels([example]))
    before = fingerprint_inputs(by_table)
    photograph(40, 30, 9).save(pictures / "cat" / "0.png")
    assert fingerprint_inputs(by_table) != before, "another image in the place of one"
    with pytest.raises(DataError, match="is not stored"):
        ImageStore(by_table).find([example._replace(texts=("0" * 32,))])


@pytest.mark.parametrize("many", [False, True])
def test_a_renamed_class_folder_is_another_source(pictures, monkeypatch, many):
    monkeypatch.setattr("data.images.sources.MAX_SINGLE_HASHES", 1 if many else 100)
    sources = [ImageSource(folder=str(pictures)), ImageSource(files=f"{pictures}/*/*.png")]
    before = [source_inputs(source) for source in sources]
    pictures.rename(pictures.with_name("moved"))
    moved = [ImageSource(folder=str(pictures.with_name("moved"))), ImageSource(files="moved/*/*.png")]
    assert [source_inputs(source) for source in moved] == before, "another place with the same files is the same"
    (pictures.with_name("moved") / "cat").rename(pictures.with_name("moved") / "cow")
    assert all(source_inputs(source) != old for source, old in zip(moved, before, strict=True))


def test_remote_images_are_identified_by_their_content(pictures):
    import fsspec

    filesystem, contents = fsspec.filesystem("memory"), [path.read_bytes() for _, path in files(pictures)]
    for name, content in zip("ab", contents[:2], strict=True):
        filesystem.pipe({f"/{name}/1.png": content, f"/{name}/1.tar": content})
    for sources in (
        [ImageSource(files=f"memory://{name}/*.png") for name in "ab"],
        [ImageSource(tar=f"memory://{name}/*.tar") for name in "ab"],
    ):
        first, second = map(source_inputs, sources)
        assert first == source_inputs(sources[0]) and first != second


def test_many_images_of_one_hash_take_seconds():
    count, rng = 600, np.random.default_rng(0)
    pixels = np.full((count, 16, 16, 3), 250, np.uint8)
    pixels[np.arange(count), rng.integers(0, 16, count), rng.integers(0, 16, count)] = 0
    same = np.zeros(count, np.uint64)
    start = time.process_time()
    is_duplicate = hashes.find_duplicates(same, pixels, np.ones(count, dtype=bool))
    assert time.process_time() - start < 4 and 0 < is_duplicate.sum() < count
    every = np.array([[i, j] for i in range(20) for j in range(i + 1, 20)])
    assert np.array_equal(hashes.find_close(same[:20]), every), "each pair once, although it shares all parts"


def test_planted_copies_are_found_and_others_are_not():
    from sklearn.datasets import load_sample_images

    from data.images.decode import decode, resize_square

    def describe(images):
        return np.array([hashes.difference_hash(i) for i in images], np.uint64), np.stack(
            [resize_square(image, 48) for image in images]
        )

    corners = [(x, y) for x in range(0, 481, 160) for y in range(0, 319, 106)]
    photographs = map(Image.fromarray, load_sample_images().images)
    originals = [image.crop((x, y, x + 160, y + 106)) for image in photographs for x, y in corners]
    assert len(originals) == 32
    jpegs = [decode(encode(image, "JPEG", quality=70)) for image in originals]
    smaller = [image.resize((128, 85), Image.Resampling.BICUBIC) for image in originals]
    described = describe(originals)
    for copies in (jpegs, smaller):
        pairs = hashes.find_copies(*described, *describe(copies))
        assert np.mean([[index, index] in pairs.tolist() for index in range(32)]) >= 0.95
        assert (pairs[:, 0] != pairs[:, 1]).sum() <= 2, "of 992 pairs; two parts of the sky are alike"
    every = [[i, j] for i in range(32) for j in range(i + 1, 32)]
    bits = {(i, j): int(described[0][i] ^ described[0][j]).bit_count() for i, j in every}
    found = hashes.find_close(described[0], max_bits=12)
    assert found.tolist() == [list(pair) for pair, count in bits.items() if count <= 12], "as an exhaustive search"
