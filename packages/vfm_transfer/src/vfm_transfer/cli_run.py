"""The commands of the three steps: `run`, `teach`, `distill`, `finetune`, `evaluate`, `compare`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tenfold_shared.commands import InputError, print_result, unknown_name
from tenfold_shared.files import atomic_write
from tyro.conf import OmitArgPrefixes, Positional, arg

from vfm_transfer.cli_data import Device, Output, torch_device
from vfm_transfer.config import PRESETS, Arm, FinetuneMode, RunConfig, Schedule, Task, TeachMode


@dataclass(frozen=True)
class Data:
    """Where images and labels are."""

    labels: Path = Path("labels")
    """Labelled images: a folder with one folder a class, or a list of `filename,class`; a folder for segmentation."""
    images: Path | None = None
    """Folder of a list's names."""
    transfer: Path | None = None
    """The pile of unlabelled images: a folder, or a list such as `curate` writes."""
    test: Path | None = None
    """Test images, as the labels are."""
    masks: Path | None = None
    """Segmentation: masks of class numbers, named as their images."""
    test_masks: Path | None = None
    """Masks of the test images."""
    num_classes: int = 0
    """Segmentation: how many classes."""
    first_class: int = 0
    """Segmentation: number of the first class in the masks (1 for ADE20K)."""

    def load(self, config: RunConfig) -> Any:
        """Open everything; every file is looked at before anything is written."""
        from vfm_transfer.images import FileImages, check_images, list_images
        from vfm_transfer.pipeline import RunData

        side = memory_side(config)
        labelled = self._labelled(config, self.labels, self.masks, side, None)
        test = self._labelled(config, self.test, self.test_masks, side, labelled.classes) if self.test else None
        pile = None
        if self.transfer is not None and config.arm not in ("scratch", "checkpoint"):
            paths = list_images(self.transfer, None if self.transfer.is_dir() else self.images)
            check_images(paths)
            pile = FileImages(paths, side)
        return RunData(labelled, pile, test)

    def _labelled(
        self, config: RunConfig, source: Path, masks: Path | None, side: int, classes: tuple[str, ...] | None
    ) -> Any:
        from vfm_transfer.images import open_labelled, open_segmentation

        if config.task == "classify":
            return open_labelled(source, side, self.images, classes)
        if masks is None:
            raise InputError(f"segmentation needs masks for {source}; name their folder.")
        if source.is_dir():
            return open_segmentation(source, masks, side, self.num_classes, first=self.first_class)
        folder = self.images or source.parent
        return open_segmentation(folder, masks, side, self.num_classes, names=source, first=self.first_class)


def memory_side(config: RunConfig) -> int:
    """Side in pixels in which images are kept: that of the larger network."""
    sizes = [config.teacher_size, config.student_size]
    return max(sizes) if min(sizes) else max(224, *sizes)


@dataclass(frozen=True)
class Settings:
    """A preset, and what is otherwise; None leaves what the preset says (`vfm-transfer presets --json`)."""

    preset: str = "lite"
    """lite (EfficientNet-Lite0 teaches a 28-pixel network, on a CPU), dinov2-fastvit, ...; `vfm-transfer presets`."""
    teacher: str | None = None
    """Backbone: timm:NAME, transformers:FOLDER, open_clip:NAME/WEIGHTS, callable:MODULE:FUNCTION, or a short name."""
    student: str | None = None
    """Backbone of the small network, alike."""
    arm: Arm | None = None
    """oriented is the method; cosine, mse, contrastive, patch match features; logits the teacher's own classifier; self
    needs no teacher; scratch has labels alone; checkpoint begins with any weights."""
    task: Task | None = None
    """classify or segment."""
    teacher_size: int | None = None
    """Input of the teacher in pixels."""
    student_size: int | None = None
    """Input of the student in pixels."""
    teacher_stride: int | None = None
    """Pixels to a cell of the teacher's map (8, 16, 32; networks of timm): finer masks, more operations."""
    student_stride: int | None = None
    """Of the student's map."""
    teach_mode: TeachMode | None = None
    """full trains all of the teacher, lora low-rank updates, linear the head alone."""
    finetune_mode: FinetuneMode | None = None
    """full; linear trains the head alone on transferred features; linear-then-full the head first."""
    steps: Annotated[tuple[int, int, int] | None, arg(metavar="TEACH TRANSFER FINETUNE")] = None
    """Steps of the three trainings."""
    lr: Annotated[tuple[float, float, float] | None, arg(metavar="TEACH TRANSFER FINETUNE")] = None
    """Peak rates of the three trainings."""
    batch_size: int | None = None
    """Images of a step, in all three."""
    views: int | None = None
    """Augmented views of an image; the teacher sees each once, and its outputs are kept."""
    temperature: float | None = None
    """Of softened predictions, above 0."""
    seed: int = 0
    """Of weights, order and views."""
    save_every: int | None = None
    """Steps between the states that a stopped run goes on from."""

    def config(self) -> RunConfig:
        """Return the preset with the changes."""
        from vfm_transfer.pipeline import with_seed

        if self.preset not in PRESETS:
            raise unknown_name("preset", self.preset, list(PRESETS))
        names = ("teacher", "student", "arm", "task", "teacher_size", "student_size", "teacher_stride",
                 "student_stride", "teach_mode", "finetune_mode")  # fmt: skip
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        base = replace(PRESETS[self.preset], **changes)
        middle = self._changed(base.transfer.schedule, 1)
        middle = replace(middle, views=middle.views if self.views is None else self.views)
        temperature = base.transfer.temperature if self.temperature is None else self.temperature
        transfer = replace(base.transfer, schedule=middle, temperature=temperature)
        base = replace(
            base, teach=self._changed(base.teach, 0), transfer=transfer, finetune=self._changed(base.finetune, 2)
        )
        return with_seed(base, self.seed)

    def _changed(self, schedule: Schedule, place: int) -> Schedule:
        changes: dict[str, Any] = {}
        if self.steps is not None:
            changes["steps"] = self.steps[place]
        if self.lr is not None:
            changes["lr"] = self.lr[place]
        for name in ("batch_size", "save_every"):
            if (value := getattr(self, name)) is not None:
                changes[name] = value
        return replace(schedule, **changes)


@dataclass(frozen=True)
class _WithData(Output):
    data: OmitArgPrefixes[Data] = Data()
    settings: OmitArgPrefixes[Settings] = Settings()
    out: Path = Path("vfm-run")
    """Folder; a run that was stopped goes on in it."""
    device: Device = "auto"
    """Of torch."""

    def open(self) -> tuple[RunConfig, Any, str]:
        """Return settings, data and device."""
        config = self.settings.config()
        return config, self.data.load(config), torch_device(self.device)


@dataclass(frozen=True)
class Run(_WithData):
    """Take all three steps: teach the big model the task, distil it into the student, fine-tune the student.

    For example:

        vfm-transfer run --labels few/ --transfer pile/ --test test/ --out run
        vfm-transfer run --labels few.csv --images photos/ --transfer transfer.txt --preset dinov2-fastvit
        vfm-transfer run --labels few/ --transfer pile/ --arm cosine --out run-agnostic
    """

    use_teacher: Path | None = None
    """Network in place of the first stage (a folder of `teach`)."""
    use_pretrained: Path | None = None
    """Network in place of the middle stage: a folder of `distill`, or any checkpoint."""
    dry_run: bool = False
    """Print the settings, the images and the cost of an image, and end."""

    def run(self) -> None:
        """Run, or say what would be run."""
        from vfm_transfer.pipeline import Replaced, run

        config, data, device = self.open()
        if self.dry_run:
            print_result(describe(config, data, device), self.json)
            return
        found = run(config, data, self.out, replaced=Replaced(self.use_teacher, self.use_pretrained), device=device)
        print_result(found if self.json else _short(found), self.json)


def describe(config: RunConfig, data: Any, device: str) -> dict[str, Any]:
    """Return settings, numbers of images, parameters and operations of both networks."""
    from vfm_transfer.ledger import count_flops
    from vfm_transfer.pipeline import new_student, new_teacher

    num = len(data.labelled.classes)
    found: dict[str, Any] = {
        "config": config.to_dict(),
        "device": device,
        "labelled": len(data.labelled),
        "classes": num,
    }
    found["transfer"] = 0 if data.transfer is None else len(data.transfer)
    networks = {"student": new_student(config, num, config.finetune)}
    if config.arm not in ("self", "scratch", "checkpoint"):
        networks["teacher"] = new_teacher(config, num)
    for name, network in networks.items():
        found[name] = {"parameters": sum(p.numel() for p in network.parameters()), "flops": count_flops(network)}
    return found


def _short(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in ("per_class", "flops")}


@dataclass(frozen=True)
class Teach(_WithData):
    """The first step alone: fit the pretrained network to the labels.

    For example:

        vfm-transfer teach --labels few/ --teacher efficientnet-lite0 --out teacher
        vfm-transfer teach --labels few/ --preset dinov2-fastvit --teach-mode lora --out teacher
    """

    def run(self) -> None:
        """Teach, and print where the network is."""
        import torch

        from vfm_transfer.pipeline import make_teacher

        config, data, device = self.open()
        made = make_teacher(config, data, self.out, torch.device(device))
        print_result({"teacher": str(made.folder), "flops": made.ledger.total}, self.json)


@dataclass(frozen=True)
class Distill(_WithData):
    """The middle step alone: a student matches a teacher on the transfer set.

    For example:

        vfm-transfer distill --use-teacher teacher/1-teacher --labels few/ --transfer pile/ --out run
        vfm-transfer distill --arm mse --labels few/ --transfer pile/ --out run-agnostic
    """

    use_teacher: Path | None = None
    """Folder of `teach`; feature arms take the pretrained network by its name."""

    def run(self) -> None:
        """Distil, and print where the student is."""
        import torch

        from vfm_transfer.artefacts import replacement
        from vfm_transfer.pipeline import Replaced, check_run, make_pretrained

        config, data, device = self.open()
        if config.arm in ("oriented", "self") and self.use_teacher is None:
            raise InputError(f"arm {config.arm!r} needs --use-teacher, a folder that `vfm-transfer teach` made.")
        check_run(config, data, Replaced(teacher=self.use_teacher))
        teacher = replacement(self.use_teacher) if self.use_teacher else None
        made = make_pretrained(config, data, self.out, teacher, torch.device(device))
        print_result({"student": str(made.folder), "flops": made.ledger.total}, self.json)


@dataclass(frozen=True)
class Finetune(_WithData):
    """The last step alone: fit a student to the labels.

    For example:

        vfm-transfer finetune --use-pretrained run/2-pretrained --labels few/ --test test/ --out run
        vfm-transfer finetune --arm scratch --labels few/ --test test/ --out scratch
    """

    use_pretrained: Path | None = None
    """Folder of `distill` or any checkpoint; without it `--arm scratch`."""

    def run(self) -> None:
        """Fine-tune, and print where the student is and its score."""
        import torch

        from vfm_transfer.artefacts import replacement
        from vfm_transfer.evaluate import evaluate
        from vfm_transfer.pipeline import make_student

        config, data, device = self.open()
        if self.use_pretrained is None and config.arm not in ("scratch", "checkpoint"):
            raise InputError(
                "fine-tuning needs --use-pretrained, a folder of `vfm-transfer distill`, or --arm scratch."
            )
        start = replacement(self.use_pretrained) if self.use_pretrained else None
        made = make_student(config, data, self.out, start, torch.device(device))
        found: dict[str, Any] = {"student": str(made.folder), "flops": made.ledger.total}
        if data.test is not None:
            found |= evaluate(made.load(torch.device(device)), data.test)
        print_result(found if self.json else _short(found), self.json)


@dataclass(frozen=True)
class Evaluate(Output):
    """Score a network on labelled images: accuracy, or mean intersection over union.

    For example:

        vfm-transfer evaluate run/3-student --labels test/
        vfm-transfer evaluate run/3-student --labels test.csv --images photos/ --json
    """

    network: Positional[Path] = Path("vfm-run/3-student")
    """Folder of the network."""
    data: OmitArgPrefixes[Data] = Data()
    classes: Path | None = None
    """Training labels, for the numbers of the classes where the test set lacks some."""
    device: Device = "auto"
    """Of torch."""

    def run(self) -> None:
        """Score and print."""
        from vfm_transfer.checkpoint import from_pretrained
        from vfm_transfer.evaluate import evaluate
        from vfm_transfer.images import read_classes

        network = from_pretrained(self.network).to(torch_device(self.device))
        size, task = network.config.image_size, network.config.task
        config = replace(PRESETS["lite"], task=task, teacher_size=size, student_size=size)
        data = self.data
        names = read_classes(self.classes, data.images)[2] if self.classes else None
        found = evaluate(network, data._labelled(config, data.labels, data.masks, size, names))
        print_result(found if self.json else found | {"per_class": "--json lists them"}, self.json)


@dataclass(frozen=True)
class Compare(_WithData):
    """Run arms side by side over label draws, and report each one's distance to the first with its interval.

    For example:

        vfm-transfer compare --labels all/ --transfer pile/ --test test/ --per-class 10 --seeds 5 --out comparison
        vfm-transfer compare --labels all/ --transfer pile/ --test test/ --arms oriented mse self scratch
    """

    arms: tuple[Arm, ...] = ("oriented", "cosine", "self", "scratch")
    """The others are compared with the first."""
    seeds: int = 5
    """Number of draws."""
    per_class: int = 0
    """Labels of each class that a draw takes; 0 takes all."""
    format: Literal["html", "markdown", "both"] = "both"
    """Report beside comparison.json."""

    def run(self) -> None:
        """Run, write the report, print its table."""
        from vfm_transfer.pipeline import Draws, compare
        from vfm_transfer.report import table_rows, to_html, to_markdown

        if self.seeds < 1 or not self.arms:
            raise InputError("a comparison needs at least one arm and one seed.")
        config, data, device = self.open()
        first = self.settings.seed
        draws = Draws(tuple(range(first, first + self.seeds)), self.per_class)
        found = compare(config, data, self.out, arms=self.arms, draws=draws, device=device)
        for suffix, kind, write in ((".html", "html", to_html), (".md", "markdown", to_markdown)):
            if self.format in (kind, "both"):
                with atomic_write(self.out / f"report{suffix}", "w") as file:
                    file.write(write(found))
        print_result(found if self.json else table_rows(found), self.json)
