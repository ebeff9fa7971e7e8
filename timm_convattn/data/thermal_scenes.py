"""Synthetic thermal street scenes with boxes, in the folder layout of FLIR ADAS v1.3.

Draws 640x512 8-bit grey frames that look like those of a long-wave infrared camera: streets by night and by day with
people, cars, bicycles and dogs, each with the box that an annotator would draw. With them the training script runs on a
machine that has neither a data set nor a network connection. As in real frames, a model has to recognise objects by
their shape: automatic gain, time of day and material all change the grey values.

How a frame is drawn: `Climate` sets how warm each material is; `paint_street` paints the empty street; actors are
`Body` objects, solids in metres, which are rotated, projected, and pasted from the furthest to the nearest; `expose`
simulates the camera (gain, blur, noise, 8 bits); `visible_boxes` computes boxes from the pixels that stay visible.

These frames are no substitute for thermal data. Heat is a number in 0..1 without a unit, nothing is radiometric, and a
score on these frames says nothing about a real camera. They only show that a model and its training work.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from timm_convattn.data.flir import Box
from timm_convattn.data.thermal_bodies import (
    Body,
    Climate,
    HeatArray,
    Patch,
    View,
    add_bicycle,
    add_bush,
    add_car,
    add_dog,
    add_pole,
    add_tree,
    dress,
    pose_rider,
    pose_walker,
    smooth_noise,
)
from timm_convattn.files import create_folder

VERSION = 1  # incremented when a seed draws something else
WIDTH, HEIGHT = 640, 512
FOCAL_PX = 770.0  # a 45 degree lens on 640 columns
COVERED = 0.3  # a pixel belongs to a body that covers more than this share of it
MIN_VISIBLE = 0.45  # bodies of which a smaller share is visible get no box
MIN_SIDE_PX = 8  # smaller boxes are left out
MIN_CONTRAST = 12.0  # bodies that differ from their surroundings by fewer grey levels get no box
BOX_JITTER = 0.025  # standard deviation of a box edge, as a share of the box side
CATEGORY_IDS = {'person': 1, 'bicycle': 2, 'car': 3, 'dog': 17}  # as FLIR ADAS v1.3 numbers them


# The street


def within(start: int, stop: int, size: int) -> slice:
    """Return the part of start..stop that lies in 0..size, which can be empty."""
    first = min(max(0, start), size)
    return slice(first, max(first, min(stop, size)))


@dataclass
class Canvas:
    """The frame in front of the camera: heat per pixel, and the number of the visible body (0: none)."""

    heat: HeatArray
    owner: npt.NDArray[np.int16]

    def tint(self, x: float, y: float, half_width: float, change: float) -> None:
        """Warm or cool the ground around (x, y) by the share `change`, fading out, as a shadow or an engine does."""
        rows = within(int(y - half_width), int(y + half_width), HEIGHT)
        columns = within(int(x - 2 * half_width), int(x + 2 * half_width), WIDTH)
        down = ((np.arange(rows.start, rows.stop) - y) / (0.3 * half_width))[:, None]
        across = (np.arange(columns.start, columns.stop) - x) / half_width
        self.heat[rows, columns] *= (1 + change * np.exp(-(down**2) - across**2)).astype(np.float32)

    def paste(self, patch: Patch, x: float, y: float, owner: int) -> None:
        """Paste a patch with its foot point at (x, y), cropped at the border of the frame."""
        left, top = round(x) + patch.left, round(y) + patch.top
        rows = within(top, top + patch.cover.shape[0], HEIGHT)
        columns = within(left, left + patch.cover.shape[1], WIDTH)
        inside = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
        cover = patch.cover[inside]
        self.heat[rows, columns] = self.heat[rows, columns] * (1 - cover) + patch.heat[inside]
        self.owner[rows, columns][cover > COVERED] = owner


def paint_street(rng: np.random.Generator, climate: Climate, horizon: int) -> Canvas:
    """Paint the street without actors: sky, buildings, and ground with a road, with noise on all of it."""
    sky, ground = climate.heat(rng, 'sky'), climate.heat(rng, 'ground')
    rows = np.arange(HEIGHT, dtype=np.float32)[:, None]
    fade = np.clip(rows / horizon, 0, 1) ** 2 * 0.6
    above = sky + (ground - sky) * fade
    below = ground * (1 + rng.uniform(-0.15, 0.15) * (rows - horizon) / HEIGHT)
    image = Image.fromarray(np.broadcast_to(np.where(rows < horizon, above, below), (HEIGHT, WIDTH)).astype(np.float32))
    pen = ImageDraw.Draw(image)
    paint_buildings(pen, rng, climate, horizon)
    paint_road(pen, rng, climate, horizon)
    heat = np.array(image, dtype=np.float32)
    for cells, depth in ((5, 0.10), (30, 0.06), (200, 0.05)):
        heat *= 1 + depth * smooth_noise(rng, heat.shape, cells)
    return Canvas(heat, np.zeros((HEIGHT, WIDTH), dtype=np.int16))


def paint_buildings(pen: ImageDraw.ImageDraw, rng: np.random.Generator, climate: Climate, horizon: int) -> None:
    """Paint houses and hedges along the horizon, with gaps; some windows are warm."""
    x = float(rng.uniform(-150, 60))
    while x < WIDTH:
        width, tall = rng.uniform(60, 240), rng.uniform(20, 230)
        foot = horizon + rng.uniform(0, 35)
        leafy = rng.random() < 0.35
        pen.rectangle((x, horizon - tall, x + width, foot), fill=climate.heat(rng, 'foliage' if leafy else 'wall'))
        if not leafy:
            paint_windows(pen, rng, climate, (x, horizon - tall, x + width, foot))
        x += width + max(0.0, rng.normal(0, 40))


def paint_windows(
    pen: ImageDraw.ImageDraw, rng: np.random.Generator, climate: Climate, house: tuple[float, float, float, float]
) -> None:
    """Paint a grid of windows on a house (left, top, right, bottom); some are much warmer than the rest."""
    left, top, right, bottom = house
    pitch_x, pitch_y = rng.uniform(18, 50, 2)
    common = climate.heat(rng, 'window')
    for y in np.arange(top + 8, bottom - 12, pitch_y):
        for x in np.arange(left + 6, right - 10, pitch_x):
            heat = climate.heat(rng, 'window') if rng.random() < 0.25 else common
            pen.rectangle((x, y, x + pitch_x * 0.5, y + pitch_y * 0.55), fill=heat)


def paint_road(pen: ImageDraw.ImageDraw, rng: np.random.Generator, climate: Climate, horizon: int) -> None:
    """Paint a road to a vanishing point with kerbs and lane marks, then puddles, covers and oil stains."""
    road, vanish = climate.heat(rng, 'road'), rng.uniform(0, WIDTH)
    left, right = vanish - rng.uniform(200, 900), vanish + rng.uniform(200, 900)
    pen.polygon((left - 40, HEIGHT, vanish, horizon, right + 40, HEIGHT), fill=climate.heat(rng, 'ground'))
    pen.polygon((left, HEIGHT, vanish, horizon, right, HEIGHT), fill=road)
    marks = np.linspace(0.1, 1, 8)
    for near, far in zip(marks[1::2], marks[::2], strict=True):
        mark = [(vanish + ((left + right) / 2 - vanish) * t, horizon + (HEIGHT - horizon) * t) for t in (near, far)]
        pen.line(mark, fill=road * 0.9, width=max(1, round(9 * near)))
    for _ in range(int(rng.integers(4, 25))):
        t, x = rng.uniform(0.05, 1), rng.uniform(0, WIDTH)
        y, wide = horizon + (HEIGHT - horizon) * t, rng.uniform(8, 90) * t
        pen.ellipse((x - wide, y - wide * 0.2, x + wide, y + wide * 0.2), fill=road * rng.uniform(0.75, 1.2))


# Actors


@dataclass(frozen=True)
class Kind:
    """A kind of actor: its share of all actors, how it is drawn, its size in metres and in pixels (from, to).

    `turned` is the standard deviation of its rotation from a side view in radians; 3 is any direction.
    """

    share: float
    draw: Callable[[Body, np.random.Generator, Climate], None]
    metres: float
    pixels: tuple[float, float]
    turned: float


@dataclass(frozen=True)
class Actor:
    """A rasterized body with its foot point at pixel (x, y), at `scale` pixels per metre; a larger scale is nearer."""

    category: str
    patch: Patch
    x: float
    y: float
    scale: float


def add_person(body: Body, rng: np.random.Generator, climate: Climate) -> None:
    """Add a person on foot."""
    dress(body, pose_walker(rng), rng, climate)


KINDS = {
    'person': Kind(0.28, add_person, 1.75, (20, 150), 3.0),
    'car': Kind(0.36, add_car, 4.2, (32, 170), 3.0),
    'bicycle': Kind(0.13, add_bicycle, 1.75, (26, 150), 0.6),
    'dog': Kind(0.13, add_dog, 0.95, (28, 115), 0.5),
    'pole': Kind(0.05, add_pole, 1.75, (30, 150), 3.0),
    'bush': Kind(0.03, add_bush, 1.75, (30, 150), 3.0),
    'tree': Kind(0.02, add_tree, 1.75, (20, 60), 3.0),
}
RIDDEN = 0.4  # share of bicycles with a rider


@dataclass(frozen=True)
class Ground:
    """The ground plane: the row of the horizon and the height of the camera above the street in metres."""

    horizon: int
    camera_height: float

    def view(self, yaw: float, scale: float, roll: float) -> View:
        """Return the camera's view of an object at `scale` pixels per metre, from which its distance follows."""
        return View(yaw, float(np.arctan2(self.camera_height, FOCAL_PX / scale)), scale, roll)

    def actor(self, category: str, body: Body, view: View, x: float, rng: np.random.Generator) -> Actor:
        """Put a body on the ground at column `x`."""
        return Actor(category, body.render(view, rng), x, self.horizon + self.camera_height * view.scale, view.scale)


def cast_actors(rng: np.random.Generator, climate: Climate, ground: Ground) -> list[Actor]:
    """Draw the actors of a frame, the furthest first."""
    names, shares = list(KINDS), np.array([kind.share for kind in KINDS.values()])
    actors: list[Actor] = []
    for _ in range(int(rng.integers(8, 18))):
        name = str(rng.choice(names, p=shares / shares.sum()))
        kind = KINDS[name]
        deepest = (HEIGHT + 30 - ground.horizon) / ground.camera_height
        scale = min(deepest, np.exp(rng.uniform(*np.log(kind.pixels))) / kind.metres)
        roll = rng.normal(0, 0.12) if name == 'bicycle' else 0.0
        view = ground.view(rng.choice((0, np.pi)) + rng.normal(0, kind.turned), scale * rng.uniform(0.85, 1.1), roll)
        x = free_column(rng, actors)
        body = Body()
        kind.draw(body, rng, climate)
        actors.append(ground.actor(name, body, view, x, rng))
        if name == 'bicycle' and rng.random() < RIDDEN:
            rider = Body()
            dress(rider, pose_rider(rng), rng, climate)
            actors.append(ground.actor('person', rider, view, x, rng))
    return sorted(actors, key=lambda actor: actor.scale)


def free_column(rng: np.random.Generator, actors: list[Actor]) -> float:
    """Return the one of a few random columns whose nearest actor is furthest away."""
    columns = rng.uniform(0, WIDTH, 4)
    gaps = [min((abs(column - actor.x) for actor in actors), default=0.0) for column in columns]
    return float(columns[int(np.argmax(gaps))])


def visible_boxes(
    frame: npt.NDArray[np.uint8], owner: npt.NDArray[np.int16], actors: list[Actor], rng: np.random.Generator
) -> list[Box]:
    """Return boxes around the visible part of each actor, with an annotator's error of a few percent at the edges."""
    boxes = []
    for number, actor in enumerate(actors, start=1):
        if actor.category not in CATEGORY_IDS:
            continue
        seen = owner == number
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        if int(seen.sum()) <= MIN_VISIBLE * int((actor.patch.cover > COVERED).sum()):
            continue
        edges = np.array((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), dtype=np.float64)
        edges += rng.normal(0, BOX_JITTER, 4) * np.tile(edges[2:] - edges[:2], 2)
        x0, y0, x1, y1 = (int(v) for v in np.clip(np.rint(edges), 0, (WIDTH, HEIGHT, WIDTH, HEIGHT)))
        inside = (slice(max(0, y0 - 2), y1 + 2), slice(max(0, x0 - 2), x1 + 2))
        if min(x1 - x0, y1 - y0) >= MIN_SIDE_PX and contrast(frame[inside], seen[inside]) >= MIN_CONTRAST:
            boxes.append(Box(actor.category, x0, y0, x1 - x0, y1 - y0))
    return boxes


def contrast(grey: npt.NDArray[np.uint8], seen: npt.NDArray[np.bool_]) -> float:
    """Return the difference in mean plus that in spread between a body's grey levels and its surroundings'."""
    inside, outside = grey[seen], grey[~seen]
    if not inside.size or not outside.size:
        return 0.0
    return float(abs(inside.mean() - outside.mean()) + abs(inside.std() - outside.std()))


# Frames and files


def expose(heat: HeatArray, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Simulate the camera: a gain and an offset for each frame, motion and focus blur, column and pixel noise."""
    low, high = (
        float(np.percentile(heat[::6, ::6], share)) for share in (rng.uniform(0.2, 3), rng.uniform(97.5, 99.9))
    )
    span = rng.uniform(120, 240)
    floor = rng.uniform(0, 250 - span)
    grey = floor + span * np.clip((heat - low) / (high - low), 0, 1) ** rng.uniform(0.7, 1.4)
    if rng.random() < 0.3:
        grey = (grey + np.roll(grey, int(rng.integers(1, 3)), axis=1)) / 2
    image = Image.fromarray(grey.astype(np.uint8)).filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9)))
    noise = rng.standard_normal(heat.shape, dtype=np.float32) * np.float32(rng.uniform(0.8, 3.5))
    columns = rng.standard_normal(WIDTH, dtype=np.float32) * np.float32(rng.uniform(0.2, 2.5))
    noisy = np.asarray(image, dtype=np.float32) + noise + columns
    return np.asarray(np.clip(noisy, 0, 255), dtype=np.uint8)


def draw_frame(seed: int, index: int) -> tuple[npt.NDArray[np.uint8], list[Box]]:
    """Draw one frame.

    Args:
        seed: The data set's seed, not negative.
        index: Index of the frame in the data set, not negative.

    Returns:
        The grey frame (512, 640), and the boxes of its people, cars, bicycles and dogs. Both depend on `seed` and
        `index` only.
    """
    rng = np.random.default_rng([seed, index])
    climate = Climate(float(rng.beta(0.5, 0.6)))
    ground = Ground(int(rng.integers(150, 260)), float(rng.uniform(1.3, 3.2)))
    canvas = paint_street(rng, climate, ground.horizon)
    actors = cast_actors(rng, climate, ground)
    for number, actor in enumerate(actors, start=1):
        canvas.tint(actor.x, actor.y, actor.patch.cover.shape[1] / 2, float(rng.uniform(-0.3, 0.2)))
        canvas.paste(actor.patch, actor.x, actor.y, number)
    frame = expose(canvas.heat, rng)
    return frame, visible_boxes(frame, canvas.owner, actors, rng)


def write_scenes(root: Path, *, seed: int = 0, num_train: int = 340, num_val: int = 110) -> None:
    """Write a data set of drawn frames in the layout of FLIR ADAS v1.3.

    Args:
        root: Folder to create. It appears when it is complete.
        seed: Seed of the frames; a seed always writes the same files with the same versions of the libraries.
        num_train: Frames in `train`, from index 0.
        num_val: Frames in `val`, whose indices follow those of `train`.

    Raises:
        InputError: If `root` is not empty.
    """
    with create_folder(root) as folder:
        write_split(folder / 'train', seed, range(num_train))
        write_split(folder / 'val', seed, range(num_train, num_train + num_val))


def write_split(folder: Path, seed: int, indices: range) -> None:
    """Draw the frames of one split and write them and their annotations."""
    (folder / 'thermal_8_bit').mkdir(parents=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for image_id, index in enumerate(indices):
        frame, boxes = draw_frame(seed, index)
        name = f'thermal_8_bit/SCENE_{index + 1:05d}.jpeg'
        Image.fromarray(frame).save(folder / name, quality=90)
        images.append({'id': image_id, 'file_name': name, 'width': WIDTH, 'height': HEIGHT})
        annotations += [annotate(box, image_id, len(annotations) + i) for i, box in enumerate(boxes)]
    document = {
        'info': {'description': 'Synthetic thermal street scenes in the layout of FLIR ADAS v1.3', 'seed': seed},
        'licenses': [],
        'categories': [{'id': i, 'name': name, 'supercategory': 'unknown'} for name, i in CATEGORY_IDS.items()],
        'images': images,
        'annotations': annotations,
    }
    (folder / 'thermal_annotations.json').write_text(json.dumps(document, indent=1), encoding='utf-8')


def annotate(box: Box, image_id: int, annotation_id: int) -> dict[str, object]:
    """Convert a box to a COCO annotation."""
    return {
        'id': annotation_id,
        'image_id': image_id,
        'category_id': CATEGORY_IDS[box.category],
        'bbox': [box.x, box.y, box.w, box.h],
        'area': box.w * box.h,
        'iscrowd': 0,
    }
