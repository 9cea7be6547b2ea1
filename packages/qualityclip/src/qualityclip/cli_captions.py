"""Commands on captions: score, caption, mix, filter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tenfold_shared.commands import InputError, print_result
from tenfold_shared.progress import progress
from tyro.conf import Positional

from qualityclip.config import MixConfig

if TYPE_CHECKING:
    from qualityclip.readers import Sample

Device = Literal["auto", "cpu", "cuda", "mps"]


def resolve_device(name: str) -> str:
    """Return the device that `auto` means: a GPU where there is one."""
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def _words_of(file: Path | None) -> tuple[str, ...]:
    if file is None:
        return ()
    if not file.is_file():
        raise FileNotFoundError(f"no list of words at {file}; write one word or phrase a line.")
    return tuple(line.strip() for line in file.read_text("utf-8").splitlines() if line.strip())


def _shown(data: str, what: str, quiet: bool, *, checked: bool = True) -> Iterable[Sample]:
    """Return the samples of a source, with progress."""
    from qualityclip.sources import open_samples

    return progress(open_samples(data, checked=checked), description=what, unit="samples", quiet=quiet)


def _free(out: Path) -> None:
    if out.exists():
        raise InputError(f"{out} exists already; choose another --out.")


@dataclass(frozen=True)
class Score:
    """Score every caption: length, diversity, coverage, duplicates, agreement, and CLIPScore with an encoder.

    For example:
    qualityclip score scenes:nouns --out scores

    qualityclip score shards/ --encoder open_clip:ViT-B-32:weights.safetensors --nouns nouns.txt --out scores
    """

    data: Positional[str]
    """Tars, parquet, COCO's JSON, JSON lines, a CSV, a folder of them, or scenes:TIER:COUNT."""
    out: Path
    """Folder for scores.jsonl, summary.json and scores.svg."""
    encoder: str = ""
    """For CLIPScore: a model's folder, open_clip:MODEL:WEIGHTS, or module:name."""
    nouns: Path | None = None
    """One noun a line, whose coverage is measured where samples do not name their objects."""
    attributes: Path | None = None
    """One attribute a line; by default a list of colours, sizes and looks."""
    plot: bool = True
    """Draw the histograms (extra `plots`)."""
    device: Device = "auto"
    """Where the encoder runs."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Score, write and print the summary."""
        from tenfold_shared.files import atomic_write, plain_json, write_json

        from qualityclip.quality import ATTRIBUTES, MEASURES, ScoreOptions, score_samples, summarise
        from qualityclip.sources import load_encoder

        encoder = load_encoder(self.encoder, resolve_device(self.device)) if self.encoder else None
        options = ScoreOptions(encoder, _words_of(self.nouns), _words_of(self.attributes) or ATTRIBUTES)
        rows = list(score_samples(_shown(self.data, "score", self.quiet), options))
        summary = summarise(rows)
        import json

        with atomic_write(self.out / "scores.jsonl", "w") as file:
            file.writelines(json.dumps(plain_json(row), ensure_ascii=False) + "\n" for row in rows)
        write_json(self.out / "summary.json", summary)
        if self.plot:
            from qualityclip.plots import draw_scores

            draw_scores(self.out / "scores.svg", rows, MEASURES)
        print_result(summary, self.json)


@dataclass(frozen=True)
class Caption:
    """Write synthetic captions with a captioner of transformers or a function of yours; goes on after a kill.

    For example:
    qualityclip caption photos/ --captioner ./blip --num-captions 5 --out photos/captions.jsonl

    qualityclip caption photos.csv --captioner mine:describe --out captions.jsonl --resume
    """

    data: Positional[str]
    """Pictures with at least one caption each: a folder with a CSV, COCO's JSON, or JSON lines."""
    captioner: str
    """Folder or name of a transformers model, or module:function (pictures, number of the draw -> captions)."""
    out: Path
    """JSON lines; one row for each picture, in order."""
    num_captions: int = 5
    """Captions a picture."""
    prompt: str = ""
    """Text that the model goes on from."""
    batch_size: int = 16
    """Pictures at a time."""
    seed: int = 0
    """Of sampling."""
    device: Device = "auto"
    """Where the captioner runs."""
    resume: bool = False
    """Go on with an --out that exists."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Caption what is left to do and print how many."""
        from qualityclip.captioner import caption_samples, left_to_do, load_captioner, write_resumable
        from qualityclip.sources import open_samples

        if not self.resume:
            _free(self.out)
        samples = list(open_samples(self.data))
        if any(not isinstance(sample.image, Path) for sample in samples):
            raise InputError(
                f"{self.data}: captions are written beside pictures that are files of their own; unpack it."
            )
        captioner = load_captioner(
            self.captioner, prompt=self.prompt, seed=self.seed, device=resolve_device(self.device)
        )
        rest = progress(list(left_to_do(samples, self.out)), description="caption", unit="pictures", quiet=self.quiet)
        made = caption_samples(rest, captioner, num_captions=self.num_captions, batch_size=self.batch_size)
        count = write_resumable(self.out, made)
        print_result({"captioned": count, "before": len(samples) - count, "out": str(self.out)}, self.json)


@dataclass(frozen=True)
class Mix:
    """Choose one caption for each sample and epoch, as training would.

    For example:
    qualityclip mix scenes:nouns:20 --out mixed.parquet --mix.policy random --mix.real-share 0.3

    qualityclip mix captions.jsonl --mix.policy concat --epochs 3 --out mixed.jsonl
    """

    data: Positional[str]
    """Samples with several captions."""
    out: Path
    """.jsonl, .parquet or .tar with one caption a sample; with several epochs `UID-EPOCH` each."""
    mix: MixConfig = field(default_factory=MixConfig)
    epochs: int = 1
    """Choose anew so many times."""
    encoder: str = ""
    """For the policy best: see `qualityclip score`."""
    device: Device = "auto"
    """Where the encoder runs."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Write the chosen captions and print how many of each kind."""
        from qualityclip.readers import write_captions

        if self.epochs < 1:
            raise InputError(f"`epochs` (={self.epochs}) must be at least 1.")
        _free(self.out)
        kinds: Counter[str] = Counter()
        count = write_captions(self.out, self._chosen(kinds))
        print_result({"samples": count, **kinds, "out": str(self.out)}, self.json)

    def _chosen(self, kinds: Counter[str]) -> Iterator[Sample]:
        from dataclasses import replace

        from qualityclip.mixing import mix
        from qualityclip.quality import caption_score
        from qualityclip.sources import load_encoder

        encoder = load_encoder(self.encoder, resolve_device(self.device)) if self.encoder else None
        if self.mix.policy == "best" and encoder is None:
            raise InputError("the policy best needs an encoder; give --encoder.")
        for sample in _shown(self.data, "mix", self.quiet):
            scores = None
            if self.mix.policy == "best":
                images = [sample.read_image()] * len(sample.captions)
                scores = caption_score(images, sample.captions, encoder).tolist()
            for epoch in range(self.epochs):
                text = mix(sample.real, sample.synthetic, self.mix, uid=sample.uid, step=epoch, scores=scores)
                kinds["real" if text in sample.real else "synthetic" if text in sample.synthetic else "joined"] += 1
                uid = sample.uid if self.epochs == 1 else f"{sample.uid}-{epoch}"
                yield replace(sample, uid=uid, real=(text,), synthetic=())


@dataclass(frozen=True)
class Filter:
    """Leave out captions that cannot or should not be used, and count why.

    For example:
    qualityclip filter scenes:nouns:50 --min-words 2 --out good.parquet

    qualityclip filter captions.jsonl --encoder run/model --min-clip-score 0.3 --out good.jsonl
    """

    data: Positional[str]
    """Samples with captions."""
    out: Path
    """.jsonl, .parquet or .tar."""
    min_words: int = 1
    """Fewest words."""
    max_characters: int = 5000
    """Most characters."""
    min_clip_score: float | None = None
    """Smallest CLIPScore; needs --encoder."""
    max_duplicates: int | None = None
    """Most samples before this one with the same caption."""
    encoder: str = ""
    """See `qualityclip score`."""
    device: Device = "auto"
    """Where the encoder runs."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Filter and print what was dropped."""
        from qualityclip.quality import FilterOptions, filter_samples
        from qualityclip.readers import write_captions
        from qualityclip.sources import load_encoder

        _free(self.out)
        options = FilterOptions(self.min_words, self.max_characters, self.min_clip_score, self.max_duplicates)
        encoder = load_encoder(self.encoder, resolve_device(self.device)) if self.encoder else None
        dropped: Counter[str] = Counter()
        samples = filter_samples(_shown(self.data, "filter", self.quiet, checked=False), options, encoder, dropped)
        count = write_captions(self.out, samples)
        result: dict[str, Any] = {"kept": count, "out": str(self.out)}
        print_result(result | {f"dropped: {reason}": number for reason, number in dropped.items()}, self.json)
