"""The commands about data: `embed`, `curate`, `splits`; and what every command has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tenfold_shared.commands import InputError, print_result, unknown_name
from tenfold_shared.files import atomic_write, write_json
from tyro.conf import Positional, arg

from vfm_transfer.config import SPLITS

Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class Output:
    """Options of every command."""

    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""


def torch_device(name: Device) -> str:
    """Return torch's name of a device."""
    import torch

    if name != "auto":
        if name == "cuda" and not torch.cuda.is_available():
            raise InputError("--device cuda: torch sees no GPU; use --device cpu.")
        return name
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


@dataclass(frozen=True)
class Embed(Output):
    """Write the pooled features of images, with the fingerprint of the model they come from.

    For example:

        vfm-transfer embed photos --network efficientnet-lite0 --out pile.npy
        vfm-transfer embed labels.csv --root photos --network timm:vit_small_patch14_dinov2 --out queries.npy
    """

    source: Positional[Path] = Path("images")
    """Folder of images, or a list of `filename[,class]`; classes are kept for `curate --balance class`."""
    network: str = "timm:vit_base_patch14_dinov2"
    """Name of a pretrained network, or a folder of one that `teach` made."""
    root: Path | None = None
    """Folder of a list's names."""
    size: int = 0
    """Input in pixels; 0 takes the network's own."""
    out: Path = Path("embeddings.npy")
    """File of vectors; the facts go beside it as .json."""
    device: Device = "auto"
    """Of torch."""

    def run(self) -> None:
        """Embed the images and write both files."""
        import torch

        from vfm_transfer.checkpoint import from_pretrained
        from vfm_transfer.config import NetworkConfig
        from vfm_transfer.embeddings import embed, fingerprint, save_embeddings
        from vfm_transfer.images import FileImages, check_images, list_images, read_list
        from vfm_transfer.networks import build_network

        paths = list_images(self.source, self.root)
        check_images(paths)
        if Path(self.network).is_dir():
            network = from_pretrained(self.network)
        else:
            pretrained = self.network != "convnet"  # which has none: the same random weights at every call
            torch.manual_seed(0)
            network = build_network(NetworkConfig(self.network, 1, image_size=self.size), pretrained=pretrained)
        network = network.to(torch_device(self.device))
        vectors = embed(network, FileImages(paths, network.config.image_size))
        labels = [label for _, label in read_list(self.source)] if self.source.is_file() else []
        mark = fingerprint(network)
        save_embeddings(self.out, vectors, fingerprint=mark, names=[str(p.resolve()) for p in paths],
                        labels=labels if all(labels) else ())  # fmt: skip
        facts = {"images": len(paths), "dim": vectors.shape[1], "fingerprint": mark, "file": str(self.out)}
        print_result(facts, self.json)


@dataclass(frozen=True)
class Curate(Output):
    """Choose a transfer set out of a pile by its embeddings.

    For example:

        vfm-transfer curate --queries queries.npy --gallery pile.npy --total 1500 --out transfer.txt
        vfm-transfer curate --queries q.npy --gallery parts/ --total 150000 --balance class --backend faiss
        vfm-transfer curate --queries q.npy --gallery pile.npy --published --dedup-threshold 0.97
    """

    queries: Path = Path("queries.npy")
    """Embeddings of the labelled images."""
    gallery: Path = Path("gallery.npy")
    """Embeddings of the pile: a file, or a folder of files, read block by block."""
    total: int = 0
    """Images to choose, not counting the queries; needed unless --published."""
    published: bool = False
    """Choose as the paper does: 153,680 // queries - 1 for each query."""
    balance: Literal["query", "class", "none", "random", "cover"] = "query"
    """query and class take turns; none is the global top; random; cover is farthest-first among the nearest."""
    dedup_threshold: float | None = None
    """Leave out images whose cosine to a chosen one or a query is above this."""
    backend: Literal["exact", "faiss", "usearch"] = "exact"
    """Search; faiss and usearch are approximate, and their recall is measured and printed."""
    seed: int = 0
    """Of random."""
    out: Path = Path("transfer.txt")
    """List of the chosen images (names, or numbers where the gallery has none); the figures go beside it as .json."""

    def run(self) -> None:
        """Choose, write the list, print the figures."""
        from vfm_transfer.curation import check_pair, cover, curate_report, images_per_query, random_images
        from vfm_transfer.embeddings import open_embeddings

        queries, gallery = open_embeddings(self.queries), open_embeddings(self.gallery)
        total = len(queries) * images_per_query(len(queries)) if self.published else self.total
        if self.balance in ("query", "class", "none"):
            found = curate_report(queries, gallery, total, balance=self.balance, dedup_threshold=self.dedup_threshold,
                                  backend=self.backend)  # fmt: skip
            chosen, figures = found.indices, found.to_dict()
        else:
            check_pair(queries, gallery, total)
            if self.dedup_threshold is not None:
                raise InputError(f"--dedup-threshold has no effect on --balance {self.balance}; leave it out.")
            chosen = (
                random_images(gallery, total, self.seed) if self.balance == "random" else cover(queries, gallery, total)
            )
            figures = {"chosen": len(chosen), "queries": len(queries)}
        names = gallery.names or tuple(map(str, range(len(gallery))))
        with atomic_write(self.out, "w") as file:
            file.writelines(names[number] + "\n" for number in chosen)
        write_json(self.out.with_suffix(".json"), figures | {"balance": self.balance, "backend": self.backend})
        print_result(figures, self.json)


@dataclass(frozen=True)
class Splits(Output):
    """Draw the paper's label budgets from a list of images and write them in the form of its split files.

    For example:

        vfm-transfer splits eurosat --source EuroSAT/2750 --out splits
        vfm-transfer splits ham10k --source train.csv --val val.csv --test test.csv --seed 1
        vfm-transfer splits ade20k --source images/training --val images/validation
    """

    plan: Positional[str] = "eurosat"
    """eurosat, ham10k, places365, ade20k or imagenet."""
    source: Path = Path("images")
    """Training images (all images for eurosat): a folder with one folder a class, or a list of filename,class."""
    val: Path | None = None
    """Official validation images, alike."""
    test: Path | None = None
    """Official test images, alike."""
    per_class: Annotated[tuple[int, ...], arg(metavar="N ...")] = ()
    """Other budgets than the plan's, images of each class."""
    seed: int = 0
    """Of the draws."""
    out: Path = Path("splits")
    """Folder of the split files."""

    def run(self) -> None:
        """Draw and write the splits, print their sizes."""
        from dataclasses import replace

        from vfm_transfer.splits import make_splits, write_splits

        if self.plan not in SPLITS:
            raise unknown_name("plan of splits", self.plan, list(SPLITS))
        plan = SPLITS[self.plan]
        if self.per_class:
            budgets = {f"train_{size}img_per_class": float(size) for size in self.per_class}
            plan = replace(plan, budgets=budgets, kind="per_class")
        parts = {name: _rows(path) for name, path in (("val", self.val), ("test", self.test)) if path}
        splits = make_splits(_rows(self.source), plan, self.seed, **parts)
        write_splits(self.out, splits)
        classes = {name: len({label for _, label in rows}) for name, rows in splits.items()}
        print_result(
            [{"split": n, "images": len(rows), "classes": classes[n]} for n, rows in splits.items()], self.json
        )


def _rows(source: Path) -> list[tuple[str, str]]:
    """File names with classes: of a list, of class folders, or of a plain folder of images."""
    from vfm_transfer.images import list_images, read_classes, read_list

    if source.is_file():
        return read_list(source)
    if source.is_dir() and any(path.is_dir() for path in source.iterdir()):
        paths, labels, _ = read_classes(source)
        return [(path.name, label) for path, label in zip(paths, labels, strict=True)]
    return [(path.name, "") for path in list_images(source)]
