"""Crops built from frames by one and by two processes, and frames decoded alone, each in a fresh process."""

import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.measure import Measurements, compare_values, fit_growth, summarize
from timm_convattn.data.crops import build_crops
from timm_convattn.data.flir import read_flir, read_frame
from timm_convattn.data.thermal_scenes import write_scenes

__all__ = ['measure_build']


def measure_build(
    seconds: float,
    flir_root: Path | None = None,
    shares: tuple[float, ...] = (0.13, 0.25, 0.5, 1.0),
    repeats: int = 3,
) -> Measurements:
    """Compare building crops with two processes, with one, and decoding every frame once: time and peak memory.

    Args:
        seconds: Minimum duration of each comparison.
        flir_root: Folder in FLIR's layout. None: the embedded thermal scenes, written for it.
        shares: Fractions of the frames that the growth is fitted to; memory is compared between the extremes.
        repeats: Minimum number of repetitions of each measurement.
    """
    with tempfile.TemporaryDirectory() as folder:
        if flir_root is None:
            flir_root = Path(folder) / 'scenes'
            write_scenes(flir_root)
        runs: list[tuple[float, float, float]] = []
        while len(runs) < repeats or sum(map(sum, runs)) < seconds:
            two, one = _fresh(_build, flir_root, 2)[0], _fresh(_build, flir_root, 1)[0]
            runs.append((two, one, _fresh(_decode, flir_root)[0]))
        frames = len(read_flir(flir_root).frames)
        title = f'crops of {frames} frames'
        comparisons = [
            summarize(f'{title}, 2 processes', '1 process', [(two, one) for two, one, _ in runs], 1.0, 's'),
            summarize(f'{title}, 1 process', 'decoding alone', [(one, alone) for _, one, alone in runs], 1.0, 's'),
            summarize(f'{title}, 2 processes', 'decoding alone', [(two, alone) for two, _, alone in runs], 1.0, 's'),
        ]
        times: dict[float, float] = {}
        memory: dict[float, float] = {}
        for share in shares:
            count = round(frames * share)
            part = _part(flir_root, count, Path(folder) / f'{count} frames')
            several = [_fresh(_build, part, 1) for _ in range(repeats)]
            times[count], memory[count] = min(run[0] for run in several), max(run[1] for run in several)
        few, most = min(memory), max(memory)
        case = f'peak memory, {most} frames'
        comparisons.append(compare_values(case, f'{few} frames', memory[most], memory[few], 'MiB'))
        return comparisons, [fit_growth('time of building', 'frames', 's', times)]


def _fresh(measure: Callable[..., tuple[float, float]], *args: Any) -> tuple[float, float]:
    """Run a measurement in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as pool:
        return pool.submit(measure, *args).result()


def _build(flir_root: Path, num_proc: int) -> tuple[float, float]:
    """Build the crops and return seconds and the peak memory of this process in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        build_crops(flir_root, Path(folder) / 'crops', num_proc=num_proc, progress=False)
        return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _decode(flir_root: Path) -> tuple[float, float]:
    """Read the annotations, decode every frame once, and return seconds and peak memory in MiB."""
    started = time.perf_counter()
    for frame in read_flir(flir_root).frames:
        read_frame(frame)
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _part(flir_root: Path, count: int, folder: Path) -> Path:
    """Copy the first frames of a folder with their boxes."""
    flir = read_flir(flir_root)
    for name, split in flir.splits.items():
        kept, count = split.frames[:count], max(count - len(split.frames), 0)
        annotations = Path(flir.layout.splits[name]) / flir.layout.annotations
        coco = json.loads((flir_root / annotations).read_text())
        files = {os.path.relpath(frame.path, (flir_root / annotations).parent) for frame in kept}
        coco['images'] = [image for image in coco['images'] if image['file_name'] in files]
        ids = {image['id'] for image in coco['images']}
        coco['annotations'] = [box for box in coco['annotations'] if box['image_id'] in ids]
        (folder / annotations).parent.mkdir(parents=True)
        (folder / annotations).write_text(json.dumps(coco))
        for frame in kept:
            (folder / frame.source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(frame.path, folder / frame.source)
    return folder
