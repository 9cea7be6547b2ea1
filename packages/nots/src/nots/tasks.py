"""What the commands do with files: series to learn from, labelled ones to adapt to, benchmark sets to score on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write
from torch import Tensor

from nots import benchsets, fitting, protocols, windows
from nots.checkpoint import from_pretrained
from nots.config import NoTSConfig, Readout, ScheduleConfig, TrainConfig
from nots.degradation import narrate
from nots.model import resample, standardise
from nots.objectives import step_flops
from nots.readers import Collected, read_series
from nots.worlds import draw_series, pretraining_series


def read_checked(path: Path) -> Collected:
    """Read series and refuse, by number, those that are not finite, too short, or constant."""
    found = read_series(path)
    fitting.check_series(found.series)
    for place, one in enumerate(found.series):
        flat = np.flatnonzero(one.max(1) == one.min(1))
        if len(flat):
            raise InputError(f"{path}: series {place} is constant in channel {flat[0]}; leave it out.")
    return found


def unlabelled(path: Path, preset: NoTSConfig, drawn: tuple[int, int] | None) -> tuple[NoTSConfig, Tensor]:
    """Return a preset for data, and its series [n, channels, length]; `drawn` is number and seed of synthetic ones."""
    if drawn is not None:
        return preset, pretraining_series(preset.length, *drawn)
    found = read_checked(path)
    longest = max(one.shape[1] for one in found.series)
    config = fitting.fitted_config(preset, found.num_channels, longest)
    if len(found.series) == 1:
        pieces = windows.cut(found.series[0], config.length)[0]
        return config, standardise(torch.from_numpy(pieces).float())
    return config, fitting.to_series(found.series, config.length)


def labelled(path: Path, task: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Return series and labels; a file without labels, or with too few classes, is refused."""
    found = read_checked(path)
    if not len(found.labels):
        raise InputError(f"{path} has no labels.")
    if task == "regress" and found.labels.dtype.kind not in "fiu":
        raise InputError(f"{path}: labels such as {found.labels[0]!r} are no numbers; use --task classify.")
    if task == "classify" and len(set(found.labels.tolist())) < 2:
        raise InputError(f"{path} holds one class ({found.labels.tolist()[0]!r}); at least two are needed.")
    return found.series, found.labels


def adapt_to(path: Path, task: str, options: Any) -> dict[str, Any]:
    """Adapt a pretrained model to a file's labels, write it, and return its report of parameters."""
    from nots.estimators import NoTSClassifier, NoTSRegressor

    series, labels = labelled(path, task)
    kind = NoTSClassifier if task == "classify" else NoTSRegressor
    estimator = kind(
        from_pretrained(options.model),
        options.objective,
        mode=options.mode,
        adapt_steps=options.steps,
        random_state=options.seed,
    )
    estimator.fit(series, labels)
    estimator.save_pretrained(options.out)
    return cast(Any, estimator.network_).report()


def embed_file(path: Path, model: Path, readout: Readout, out: Path) -> tuple[int, int]:
    """Write a file's embeddings and labels; return their number and width."""
    trunk, found = from_pretrained(model), read_checked(path)
    fitting.check_channels(trunk, found.num_channels)
    series = fitting.to_series(found.series, trunk.config.length)
    rows = series if trunk.config.num_channels == series.shape[1] else series.flatten(0, 1)[:, None]
    with torch.no_grad():
        parts = torch.cat([trunk.embed(part, readout) for part in rows.split(256)])
    embeddings = parts.reshape(len(series), -1).numpy()
    with atomic_write(out) as file:
        np.savez(file, embeddings=embeddings, labels=found.labels)
    return embeddings.shape


def evaluate_file(path: Path, model: Path, task: str, options: Any) -> dict[str, Any]:
    """Return the scores of a task."""
    if task in ("classify", "regress"):
        return evaluate_labelled(path, model, task)
    work = {"detect": detect, "impute": impute, "forecast": forecast}[task]
    return {"task": task, "dataset": options.dataset, **work(path, model, options)}


def evaluate_labelled(path: Path, model: Path, task: str) -> dict[str, Any]:
    """Score an adapted model on labelled series."""
    from nots.estimators import NoTSClassifier, NoTSRegressor

    found = read_checked(path)
    if not len(found.labels):
        raise InputError(f"{path} has no labels.")
    kind = NoTSClassifier if task == "classify" else NoTSRegressor
    told = kind.from_pretrained(model).predict(found.series)
    if task == "classify":
        return {"task": task, "series": len(told), "accuracy": float((told == found.labels).mean())}
    gap = told - found.labels
    r2 = 1 - float((gap**2).sum() / ((found.labels - found.labels.mean()) ** 2).sum())
    return {"task": task, "series": len(told), "mse": float((gap**2).mean()), "r2": r2}


def detect(path: Path, model: Path, options: Any) -> dict[str, Any]:
    """Score detection: the threshold is a quantile of the validation part's scores."""
    from nots.series_estimators import NoTSAnomalyDetector

    data = benchsets.load_detection(path, options.dataset)
    detector = NoTSAnomalyDetector(from_pretrained(model), random_state=options.seed).fit(data.train.T)
    threshold = protocols.threshold_of(detector.predict(data.valid.T), benchsets.ANOMALY_SHARE[options.dataset])
    scores = detector.predict(data.test.T)
    found = protocols.anomaly_scores(scores > threshold, data.labels)
    found["average_precision"] = protocols.average_precision(scores, data.labels)
    if options.point_adjustment:
        found["f1_adjusted"] = protocols.anomaly_scores(scores > threshold, data.labels, point_adjustment=True)["f1"]
    return found


def impute(path: Path, model: Path, options: Any) -> dict[str, Any]:
    """Score channel-wise imputation over all windows of the test part, the last one too."""
    from nots.estimators import NoTSImputer

    data, trunk = benchsets.load_ett(path, options.dataset), from_pretrained(model)
    length = trunk.config.length
    imputer = NoTSImputer(trunk, adapt_steps=options.steps, mask_ratio=options.mask_ratio, random_state=options.seed)
    imputer.fit(windows.cut(data.train.T, length, length)[0])

    def fill(window: np.ndarray) -> np.ndarray:
        return imputer.transform(window[None])[0]

    return protocols.imputation_errors(fill, data.test, length, options.mask_ratio, options.seed)


def forecast(path: Path, model: Path, options: Any) -> dict[str, Any]:
    """Score forecasts of the last column over the test part, beside the seasonal naive ones."""
    from nots.series_estimators import NoTSForecaster

    data = benchsets.load_ett(path, options.dataset)
    past = np.concatenate([data.train, data.valid])[:, -1]
    estimator = NoTSForecaster(
        options.horizon, from_pretrained(model), adapt_steps=options.steps, random_state=options.seed
    ).fit(data.train[:, -1])
    season = 24 * (4 if "m" in options.dataset else 1)
    series = np.concatenate([past, data.test[:, -1]])
    return protocols.forecast_errors(estimator.predict, series, len(past), options.horizon, season)


def compare_files(options: Any) -> list[dict[str, Any]]:
    """Pretrain each objective on the training series with equal operations, adapt, and return the test accuracies."""
    from nots.estimators import NoTSClassifier

    series, labels = labelled(options.train, "classify")
    test, truth = labelled(options.test, "classify")
    config, x = unlabelled(options.train, _preset(options.preset), None)
    ours, rows = step_flops(config, TrainConfig("nots", batch_size=1)), []
    for objective in ("random", *options.objectives):
        for mode in options.modes:
            scores = []
            for seed in range(options.seeds):
                trunk, facts = _trunk(config, objective, x, (options.steps, ours, seed))
                name = "nots" if objective == "random" else objective
                made = NoTSClassifier(trunk, name, mode=mode, adapt_steps=options.adapt_steps, random_state=seed)
                scores.append(float((made.fit(series, labels).predict(test) == truth).mean()))
            spread = float(np.std(scores, ddof=1)) if len(scores) > 1 else float("nan")
            rows.append({"objective": objective, "mode": mode, "accuracy": float(np.mean(scores)), "spread": spread})
            rows[-1] |= facts
    return rows


def _preset(name: str) -> NoTSConfig:
    from nots.config import PRESETS

    return PRESETS[name]


def _trunk(config: NoTSConfig, objective: str, x: Tensor, plan: tuple[int, int, int]) -> tuple[Any, dict[str, Any]]:
    """Return a trunk of an objective, its batch as large as NoTS's operations of eight series allow."""
    from nots.objectives import trunk_config
    from nots.train import build, fit

    steps, ours, seed = plan
    if objective == "random":
        return build(config, TrainConfig(seed=seed)).model.eval(), {"batch_size": 0, "flops": 0}
    one = step_flops(config, TrainConfig(cast(Any, objective), batch_size=1))
    size = max(1, round(8 * ours / one))
    train = TrainConfig(cast(Any, objective), steps, size, 3e-3, max(1, steps // 20), seed=seed)
    size = min(size, len(x))
    return fit(trunk_config(config, objective), train, x), {"batch_size": size, "flops": one * size * steps}


def plot_file(path: Path, model: Path, out: Path, plan: tuple[int, int], *, synthetic: bool) -> None:
    """Draw narratives of the first series of a file, or of synthetic ones."""
    from nots.plots import draw_narratives

    trunk, (rows, seed) = from_pretrained(model), plan
    if synthetic:
        x, titles = example_series(trunk.config.length, rows, seed)
    else:
        found = read_checked(path).series[:rows]
        parts = [resample(torch.from_numpy(one[:1]).float()[None], trunk.config.length) for one in found]
        x = standardise(torch.cat(parts))
        titles = [f"series {place}" for place in range(len(x))]
    schedule: ScheduleConfig = trunk.config.schedules[0]
    groups = narrate(x.expand(-1, trunk.config.num_channels, -1), schedule)
    told = trunk.tell(groups[:, -1])
    draw_narratives(out, groups[:, :, 0].numpy(), told[:, :, 0].numpy(), titles)


def example_series(length: int, rows: int, seed: int) -> tuple[Tensor, list[str]]:
    """Return synthetic series [rows, 1, time] and their names, smooth paths, rough paths and sinusoids in turn."""
    from nots.synthetic import fbm_davies_harte
    from nots.worlds import to_tensor

    rng, series, titles = np.random.default_rng(seed), [], []
    for place in range(rows):
        if place % 3 == 2:
            series.append(draw_series("sinusoids", 1, length, rng)[0][0])
            titles.append("sinusoids")
        else:
            hurst = (0.8, 0.3)[place % 3]
            series.append(fbm_davies_harte(np.array([hurst]), length, rng)[0])
            titles.append(f"fBm, H {hurst}")
    return to_tensor(np.stack(series)), titles
