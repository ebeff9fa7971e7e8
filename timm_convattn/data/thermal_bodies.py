"""Bodies of the embedded thermal scenes: people, cars, bicycles, dogs and street furniture.

A `Body` consists of solids in metres. Each has a heat in 0..1 (no unit, nothing radiometric) that a `Climate` draws for
its material. `Body.render` rotates, projects and rasterizes the solids into a `Patch` of heat and cover.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

FloatArray = npt.NDArray[np.float64]
HeatArray = npt.NDArray[np.float32]

SUPERSAMPLE = 4  # bodies are drawn this many times larger, then averaged down
HEAT_SPREAD_M = 0.025  # how far heat spreads along the surface, in metres
RIM_COOLING = 0.25  # share by which the rim of a body is colder than its core

# Lowest and highest heat (0..1) of each material, by night and by day.
MATERIALS = {
    'sky': ((0.02, 0.12), (0.08, 0.30)),
    'ground': ((0.26, 0.42), (0.50, 0.82)),
    'road': ((0.30, 0.48), (0.55, 0.90)),
    'wall': ((0.24, 0.50), (0.40, 0.85)),
    'window': ((0.20, 0.80), (0.15, 0.70)),
    'foliage': ((0.22, 0.38), (0.38, 0.58)),
    'metal': ((0.14, 0.60), (0.25, 0.95)),
    'skin': ((0.74, 0.95), (0.50, 0.72)),
    'cloth': ((0.34, 0.74), (0.38, 0.85)),
    'fur': ((0.42, 0.84), (0.38, 0.80)),
    'paint': ((0.14, 0.46), (0.30, 0.98)),
    'glass': ((0.10, 0.62), (0.15, 0.65)),
    'engine': ((0.45, 0.95), (0.55, 1.00)),
    'rubber': ((0.30, 0.78), (0.35, 0.85)),
    'cargo': ((0.22, 0.45), (0.30, 0.70)),
}


@dataclass(frozen=True)
class Climate:
    """Temperatures of one frame; `sun` runs from 0 (night) to 1 (a hot day)."""

    sun: float

    def heat(self, rng: np.random.Generator, material: str) -> float:
        """Draw the heat (0..1) of one object of `material`."""
        (night_low, night_high), (day_low, day_high) = MATERIALS[material]
        low = night_low + (day_low - night_low) * self.sun
        high = night_high + (day_high - night_high) * self.sun
        return float(rng.uniform(low, high))


# Bodies: solids in metres, x forward, y left, z up; the ground is z = 0


def vec(x: float, y: float, z: float) -> FloatArray:
    """Return a point in metres."""
    return np.array((x, y, z), dtype=np.float64)


def swung(length: float, angle: float, sideways: float = 0.0) -> FloatArray:
    """Return the end of a hanging bone, rotated forward by `angle` and outward by `sideways` (radians)."""
    return vec(length * np.sin(angle), length * np.sin(sideways), -length * np.cos(angle))


@dataclass(frozen=True)
class View:
    """Camera view of a body: rotation in radians (`yaw`, `pitch` from above, `roll`), and pixels per metre."""

    yaw: float
    pitch: float
    scale: float
    roll: float = 0.0

    def matrix(self) -> FloatArray:
        """Return the projection matrix; its rows are right, down, and away from the camera."""
        cos, sin = np.cos((self.yaw, self.pitch, self.roll)), np.sin((self.yaw, self.pitch, self.roll))
        lean = np.array(((1, 0, 0), (0, cos[2], -sin[2]), (0, sin[2], cos[2])))
        turn = np.array(((cos[0], -sin[0], 0), (sin[0], cos[0], 0), (0, 0, 1)))
        tilt = np.array(((1, 0, 0), (0, -sin[1], -cos[1]), (0, cos[1], -sin[1])))
        return np.asarray(tilt @ turn @ lean, dtype=np.float64)


@dataclass(frozen=True)
class Patch:
    """A rasterized body: heat times cover, cover (0..1), and its left top corner from the foot point (pixels)."""

    heat: HeatArray
    cover: HeatArray
    left: int
    top: int


@dataclass(frozen=True)
class Part:
    """Part of a body: a limb between two points with a radius (metres) at each, or a flat plate without radii."""

    points: FloatArray
    radius: tuple[float, float] | None
    heat: float
    layer: int = 0
    outward: FloatArray | None = None

    def outline(self, flat: FloatArray, zoom: float) -> FloatArray:
        """Return the polygon to fill, given the projected points; limbs get a half circle around each end."""
        if self.radius is None:
            return flat
        start, end = flat
        bow = np.arctan2(end[1] - start[1], end[0] - start[0]) + np.linspace(-np.pi / 2, np.pi / 2, 7)
        arc = np.stack((np.cos(bow), np.sin(bow)), axis=1)
        start_radius, end_radius = (max(0.5, radius * zoom) for radius in self.radius)
        return np.concatenate((end + arc * end_radius, start - arc * start_radius))


class Body:
    """A body of limbs, wires and plates; parts of one layer are drawn from the furthest to the nearest."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def limb(self, start: FloatArray, end: FloatArray, radius: tuple[float, float], heat: float) -> None:
        """Add a rounded bar that tapers from one radius to the other (metres)."""
        self.parts.append(Part(np.stack((start, end)), radius, heat))

    def ball(self, centre: FloatArray, radius: float, heat: float) -> None:
        """Add a ball."""
        self.limb(centre, centre, (radius, radius), heat)

    def wire(self, points: Sequence[FloatArray], radius: float, heat: float) -> None:
        """Add a bent tube through the points."""
        for start, end in pairwise(points):
            self.limb(start, end, (radius, radius), heat)

    def plate(self, points: FloatArray, heat: float, layer: int, outward: FloatArray | None = None) -> None:
        """Add a flat polygon; with `outward` it is visible from that side only."""
        self.parts.append(Part(points, None, heat, layer, outward))

    def render(self, view: View, rng: np.random.Generator) -> Patch:
        """Project the parts and rasterize them into a patch that just contains them."""
        matrix = view.matrix()
        shown = [part for part in self.parts if part.outward is None or float(matrix[2] @ part.outward) < 0]
        zoom = view.scale * SUPERSAMPLE
        solid = np.concatenate([part.points for part in shown]) @ (matrix.T * zoom)
        ends = np.cumsum([len(part.points) for part in shown])
        flats = np.split(solid[:, :2], ends[:-1])
        depths = [float(depth.sum()) / len(depth) for depth in np.split(solid[:, 2], ends[:-1])]
        order = sorted(range(len(shown)), key=lambda i: (shown[i].layer, -depths[i]))
        outlines = [shown[i].outline(flats[i], zoom) for i in order]
        heat, cover, left, top = draw_outlines(outlines, [shown[i].heat for i in order])
        warmth = diffuse(heat, cover, float(HEAT_SPREAD_M * view.scale))
        mottling = 1 + 0.15 * smooth_noise(rng, warmth.shape, 6)
        return Patch(warmth * mottling * unit(cover), unit(cover), left, top)


def draw_outlines(outlines: list[FloatArray], heats: list[float]) -> tuple[Image.Image, Image.Image, int, int]:
    """Fill polygons (in supersampled pixels, foot point at 0, 0) in their order, and average them down."""
    corners = np.concatenate(outlines)
    left, top = np.floor(corners.min(axis=0) / SUPERSAMPLE).astype(int) - 1
    right, bottom = np.ceil(corners.max(axis=0) / SUPERSAMPLE).astype(int) + 1
    size = (int(right - left) * SUPERSAMPLE, int(bottom - top) * SUPERSAMPLE)
    heat_image, cover_image = Image.new('L', size, 0), Image.new('L', size, 0)
    heat_pen, cover_pen = ImageDraw.Draw(heat_image), ImageDraw.Draw(cover_image)
    for outline, heat in zip(outlines, heats, strict=True):
        xy = (outline - (left * SUPERSAMPLE, top * SUPERSAMPLE)).ravel().tolist()
        heat_pen.polygon(xy, fill=round(255 * min(1.0, heat)))
        cover_pen.polygon(xy, fill=255)
    return heat_image.reduce(SUPERSAMPLE), cover_image.reduce(SUPERSAMPLE), int(left), int(top)


def unit(image: Image.Image) -> HeatArray:
    """Convert an 8-bit image to values in 0..1."""
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def diffuse(heat: Image.Image, cover: Image.Image, radius: float) -> HeatArray:
    """Spread heat within a body, as cloth and sheet metal do, but not out of it, and cool its rim."""
    spread = unit(heat.filter(ImageFilter.GaussianBlur(radius)))
    share = np.maximum(unit(cover.filter(ImageFilter.GaussianBlur(radius))), np.float32(0.02))
    depth = unit(cover.filter(ImageFilter.GaussianBlur(2.5 * radius)))
    return np.asarray(spread / share * (1 - RIM_COOLING * (1 - depth)))


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], cells: int) -> HeatArray:
    """Return noise of about -1..1: a grid of `cells` random values along the larger side, enlarged to `shape`."""
    rows, columns = (max(2, round(cells * side / max(shape))) for side in shape)
    grid = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


# People. Joints are named points in metres; pairs have shape (2, 3): left, right.

Joints = dict[str, FloatArray]
Limb = tuple[FloatArray, FloatArray, FloatArray]
LEFT_RIGHT = (1, -1)


def pose_walker(rng: np.random.Generator) -> Joints:
    """Pose a person who walks, stands or (rarely) sits; the arms swing, or a hand holds a phone."""
    seated = rng.random() < 0.07
    stride, phase = rng.uniform(0.0, 0.55), rng.uniform(0, 2 * np.pi)
    lean = rng.normal(0.03, 0.06)
    neck = vec(0.54 * np.sin(lean), 0, 0.54 * np.cos(lean))
    legs, arms = [], []
    for side in LEFT_RIGHT:
        swing = side * np.sin(phase) * stride
        flex = 1.4 if seated else stride * (0.2 + 1.1 * max(0.0, side * np.cos(phase)))
        thigh = rng.uniform(1.2, 1.5) if seated else swing
        hip = vec(0, 0.1 * side, -0.03)
        knee = hip + swung(0.43, thigh, side * rng.uniform(0.0, 0.12))
        legs.append((hip, knee, knee + swung(0.43, thigh - flex)))
        bend = rng.uniform(1.3, 2.3) if rng.random() < 0.2 else rng.uniform(0.05, 0.6)
        reach = rng.uniform(0.0, 0.4) - 0.9 * swing
        shoulder = neck + vec(0, 0.18 * side, -0.07)
        elbow = shoulder + swung(0.29, reach, side * rng.uniform(0.05, 0.35))
        arms.append((shoulder, elbow, elbow + swung(0.25, reach + bend, side * rng.uniform(-0.3, 0.2))))
    return join(neck, vec(0, 0, 0), arms, legs, lift=0.07 - min(leg[2][2] for leg in legs))


def pose_rider(rng: np.random.Generator) -> Joints:
    """Pose a person on the saddle of `add_bicycle`, hands on the bars, feet on the pedals."""
    lean, crank = rng.uniform(0.15, 0.75), rng.uniform(0, 2 * np.pi)
    pelvis = vec(-0.24, 0, 0.98)
    neck = pelvis + vec(0.54 * np.sin(lean), 0, 0.54 * np.cos(lean))
    legs, arms = [], []
    for side in LEFT_RIGHT:
        hip = pelvis + vec(0, 0.1 * side, -0.03)
        ankle = vec(-0.08, 0.12 * side, 0.36) + 0.17 * side * vec(np.cos(crank), 0, np.sin(crank))
        legs.append((hip, knee_between(hip, ankle, 0.43), ankle))
        shoulder, hand = neck + vec(0, 0.18 * side, -0.07), vec(0.32, 0.26 * side, 1.04)
        arms.append((shoulder, (shoulder + hand) / 2 + vec(-0.03, 0.07 * side, -0.06), hand))
    return join(neck, pelvis, arms, legs, lift=0.0)


def knee_between(hip: FloatArray, ankle: FloatArray, bone: float) -> FloatArray:
    """Return the knee, forward of the line from hip to ankle, when both bones are `bone` metres long."""
    along = ankle - hip
    forward = np.cross(vec(0, 1, 0), along) * -1
    bulge = np.sqrt(max(0.0, bone**2 - float(along @ along) / 4))
    return np.asarray((hip + ankle) / 2 + forward / np.linalg.norm(forward) * bulge)


def join(neck: FloatArray, pelvis: FloatArray, arms: Sequence[Limb], legs: Sequence[Limb], lift: float) -> Joints:
    """Name the joints and raise all of them by `lift` metres."""
    shoulder, elbow, hand = (np.stack(pair) for pair in zip(*arms, strict=True))
    hip, knee, ankle = (np.stack(pair) for pair in zip(*legs, strict=True))
    joints = {'neck': neck, 'pelvis': pelvis, 'shoulder': shoulder, 'elbow': elbow, 'hand': hand}
    joints |= {'hip': hip, 'knee': knee, 'ankle': ankle}
    return {name: point + vec(0, 0, lift) for name, point in joints.items()}


def dress(body: Body, joints: Joints, rng: np.random.Generator, climate: Climate) -> None:
    """Add limbs and clothes to the joints: bare skin is hottest, a coat or a bag can be cold."""
    skin, top, trousers, shoes = (climate.heat(rng, name) for name in ('skin', 'cloth', 'cloth', 'cloth'))
    bare_legs, bare_arms = rng.random(2) < 0.15 + 0.35 * climate.sun
    bulk = rng.uniform(0.9, 1.25)
    neck, pelvis = joints['neck'], joints['pelvis']
    body.limb(neck + (pelvis - neck) * 0.15, pelvis, (0.13 * bulk, 0.14 * bulk), top)
    for i in range(2):
        shoulder, elbow, hand, hip, knee, ankle = (
            joints[name][i] for name in ('shoulder', 'elbow', 'hand', 'hip', 'knee', 'ankle')
        )
        body.limb(shoulder * 0.75 + neck * 0.25, hip, (0.10 * bulk, 0.11 * bulk), top)
        body.limb(shoulder, elbow, (0.065 * bulk, 0.055 * bulk), top)
        body.limb(elbow, hand, (0.052 * bulk, 0.04), skin if bare_arms else top * 1.02)
        body.ball(hand, 0.055, skin * 0.95)
        body.limb(hip, knee, (0.095 * bulk, 0.07 * bulk), trousers)
        body.limb(knee, ankle, (0.065, 0.05), skin * 0.95 if bare_legs else trousers)
        body.limb(ankle, ankle + vec(0.15, 0, -0.02), (0.055, 0.045), shoes * 0.9)
    add_head(body, neck, skin, climate.heat(rng, 'cloth') if rng.random() < 0.5 else skin * 0.85)
    if rng.random() < 0.3:
        add_coat(body, joints, climate.heat(rng, 'cloth') * 0.85)
    if rng.random() < 0.3:
        add_bag(body, joints, rng, climate.heat(rng, 'cargo'))


def add_head(body: Body, neck: FloatArray, skin: float, hair: float) -> None:
    """Add a neck, a hot face that looks forward, and hair or a hat."""
    skull = neck + vec(0.02, 0, 0.2)
    body.limb(neck, skull, (0.06, 0.08), skin * 0.95)
    body.limb(skull + vec(0.03, 0, -0.05), skull + vec(0.03, 0, 0.02), (0.085, 0.09), skin)
    body.limb(skull + vec(-0.03, 0, 0.0), skull + vec(-0.01, 0, 0.05), (0.09, 0.095), hair)


def add_coat(body: Body, joints: Joints, heat: float) -> None:
    """Add a long coat or a skirt from the waist to above the knees."""
    for hip, knee in zip(joints['hip'], joints['knee'], strict=True):
        body.limb(hip, hip + (knee - hip) * 0.75, (0.14, 0.15), heat)


def add_bag(body: Body, joints: Joints, rng: np.random.Generator, heat: float) -> None:
    """Add a backpack, or a bag that hangs from one hand."""
    if rng.random() < 0.5:
        back = joints['neck'] + vec(-0.2, 0, -0.12)
        body.limb(back, back + vec(-0.02, 0, -0.28), (0.12, 0.15), heat)
    else:
        hang = joints['hand'][0] + vec(0, 0, -0.12)
        body.limb(hang, hang + vec(0, 0, -0.2), (0.08, 0.14), heat)


# Dogs and bicycles


def add_dog(body: Body, rng: np.random.Generator, climate: Climate) -> None:
    """Add a dog that stands, walks or sits, with its head up, forward or at the ground."""
    fur, skin = climate.heat(rng, 'fur'), climate.heat(rng, 'skin')
    face, legs = 0.25 * fur + 0.75 * skin, 0.5 * fur + 0.5 * skin
    stout, leg = rng.uniform(0.85, 1.3), rng.uniform(0.26, 0.44)
    back_leg, sits = leg, rng.random() < 0.1
    chest, rump = vec(0.24, 0, leg + 0.08), vec(-0.26, 0, leg + 0.08)
    if sits:
        rump, back_leg = vec(-0.08, 0, 0.14), 0.1
    body.limb(chest, rump, (0.125 * stout, 0.105 * stout), fur)
    stride, phase = rng.uniform(0.05, 0.6), rng.uniform(0, 2 * np.pi)
    for i, (root, length) in enumerate(((chest, leg), (chest, leg), (rump, back_leg), (rump, back_leg))):
        side = LEFT_RIGHT[i % 2]
        swing = 0.0 if sits else stride * np.sin(phase + (0, np.pi, np.pi + 0.4, 0.4)[i])
        hip = root + vec(0, 0.09 * side, -0.04)
        knee = hip + swung(0.55 * length, swing + (0.1 if i < 2 else 0.3))
        body.limb(hip, knee, (0.075 * stout, 0.045), legs)
        body.limb(knee, knee + swung(0.45 * length, swing - (0.1 if i < 2 else 0.25)), (0.042, 0.033), legs)
    add_dog_head(body, rng, chest + vec(0.05, 0, 0.05), fur, face)
    root, lift = rump + vec(-0.08, 0, 0.04), rng.uniform(-1.0, 1.2)
    bend = root + 0.16 * vec(-np.cos(lift), 0, np.sin(lift))
    body.wire((root, bend, bend + 0.14 * vec(-np.cos(lift + 0.7), 0.2, np.sin(lift + 0.7))), 0.03, fur * 0.9)


def add_dog_head(body: Body, rng: np.random.Generator, chest: FloatArray, fur: float, face: float) -> None:
    """Add a neck, a skull that can look sideways, a muzzle with a cold nose, and two ears."""
    reach, aside = rng.choice((0.9, 0.9, 0.4, -0.7)), rng.uniform(-0.8, 0.8)
    skull = chest + 0.26 * vec(np.cos(reach), 0.2 * np.sin(aside), np.sin(reach))
    gaze = vec(np.cos(aside), np.sin(aside), -0.25)
    nose = skull + 0.17 * gaze
    across = vec(-gaze[1], gaze[0], 0)
    body.limb(chest, skull, (0.095, 0.075), fur)
    body.ball(skull, 0.095, face)
    body.limb(skull, nose, (0.07, 0.045), face)
    body.ball(nose, 0.028, face * 0.6)
    ear_tip = vec(-0.03, 0, rng.choice((0.14, -0.06)))
    for side in LEFT_RIGHT:
        ear = skull + 0.07 * side * across + vec(0, 0, 0.05)
        body.limb(ear, ear + ear_tip, (0.04, 0.02), fur * 0.95)


def add_bicycle(body: Body, rng: np.random.Generator, climate: Climate) -> None:
    """Add two wheels, a diamond or step-through frame, handlebars, a saddle, and sometimes a crate."""
    metal, rubber, saddle = (climate.heat(rng, name) for name in ('metal', 'rubber', 'cargo'))
    thick = rng.uniform(0.020, 0.030)
    rear, front, crank = vec(-0.5, 0, 0.34), vec(0.54, 0, 0.34), vec(-0.06, 0, 0.29)
    seat, head = vec(-0.22, 0, 0.9), vec(0.36, 0, 0.84)
    steer = rng.normal(0, 0.25)
    turned = vec(np.cos(steer), np.sin(steer), 0)
    across = vec(-turned[1], turned[0], 0)
    add_wheel(body, rear, vec(1, 0, 0), rubber, metal)
    add_wheel(body, front, turned, rubber, metal)
    top_tube = head - vec(0, 0, rng.choice((0.02, 0.04, 0.3)))
    body.wire((rear, crank, top_tube, seat * 0.85 + crank * 0.15, rear), thick, metal)
    body.wire((crank, seat), thick, metal)
    body.wire((front, head, head + vec(-0.03, 0, 0.16)), thick, metal)
    for side in LEFT_RIGHT:
        grip = head + vec(-0.04, 0, 0.17) + 0.28 * side * across
        body.wire((head + vec(-0.03, 0, 0.16), grip, grip - 0.1 * turned), 0.022, metal)
        body.wire((crank, crank + side * vec(0.14, 0.08, -0.08)), 0.025, metal)
    body.limb(seat + vec(-0.12, 0, 0.05), seat + vec(0.13, 0, 0.05), (0.065, 0.03), saddle)
    if rng.random() < 0.25:
        crate = vec(-0.58, 0, 0.82) if rng.random() < 0.6 else vec(0.55, 0, 0.95)
        body.limb(crate - vec(0.1, 0, 0), crate + vec(0.1, 0, 0), (0.12, 0.12), climate.heat(rng, 'cargo'))


def add_wheel(body: Body, hub: FloatArray, forward: FloatArray, rubber: float, metal: float) -> None:
    """Add a bicycle wheel that rolls along `forward`: a tyre, a hub and a few spokes."""
    spokes = [0.33 * (np.cos(a) * forward + np.sin(a) * vec(0, 0, 1)) for a in np.linspace(0, 2 * np.pi, 19)]
    body.wire([hub + spoke for spoke in spokes], 0.026, rubber)
    for spoke in spokes[:18:3]:
        body.wire((hub, hub + spoke), 0.004, metal)
    body.ball(hub, 0.045, (rubber + metal) / 2)


# Cars

# Side views (x forward, z up; metres): the lower hull, then the cabin, both from the rear bottom corner upwards.
CAR_SHAPES = {
    'saloon': (
        ((-2.25, 0.3), (-2.3, 0.75), (-2.1, 0.98), (0.95, 0.95), (2.1, 0.78), (2.25, 0.55), (2.2, 0.28)),
        ((-1.75, 0.96), (-1.0, 1.4), (0.05, 1.44), (1.0, 0.94)),
    ),
    'hatchback': (
        ((-1.85, 0.3), (-1.95, 0.7), (-1.85, 1.0), (0.95, 0.98), (1.8, 0.8), (1.95, 0.55), (1.9, 0.28)),
        ((-1.85, 0.99), (-1.5, 1.45), (0.0, 1.5), (1.0, 0.97)),
    ),
    'off-roader': (
        ((-2.2, 0.38), (-2.3, 0.8), (-2.25, 1.12), (1.0, 1.1), (2.1, 1.0), (2.25, 0.7), (2.2, 0.35)),
        ((-2.2, 1.1), (-1.95, 1.72), (0.2, 1.76), (1.05, 1.09)),
    ),
    'van': (
        ((-2.4, 0.32), (-2.45, 0.8), (-2.4, 1.15), (1.6, 1.12), (2.25, 0.95), (2.4, 0.6), (2.35, 0.3)),
        ((-2.4, 1.13), (-2.35, 1.95), (1.0, 1.98), (1.7, 1.11)),
    ),
}


def add_car(body: Body, rng: np.random.Generator, climate: Climate) -> None:
    """Add a car: running, with a warm bonnet, hot tyres and exhaust, or parked and cold."""
    lower, cabin = (np.array(side) for side in CAR_SHAPES[str(rng.choice(list(CAR_SHAPES)))])
    paint, glass = climate.heat(rng, 'paint'), climate.heat(rng, 'glass')
    running = rng.random() < 0.6
    engine = climate.heat(rng, 'engine') if running else paint * rng.uniform(0.85, 1.05)
    tyre = climate.heat(rng, 'rubber') * (1.15 if running else 0.8)
    bonnet = paint + (engine - paint) * rng.uniform(0.1, 0.6)
    add_wheels(body, tyre, climate.heat(rng, 'metal'), lower[0, 0] * 0.62, lower[-1, 0] * 0.64)
    add_hull(body, lower, (0.88, 0.85), 1, lambda x, up: bonnet if x > 1.0 else paint * (0.88 if up else 1.0))
    add_hull(body, cabin, (0.82, 0.64), 2, lambda x, up: paint * (0.8 if up else 0.95))
    add_windows(body, cabin, glass, glass + rng.uniform(-0.1, 0.15))
    add_lights(body, lower, rng, engine, climate.heat(rng, 'glass'), running)


def add_hull(
    body: Body,
    side: FloatArray,
    half_widths: tuple[float, float],
    layer: int,
    heat: Callable[[float, bool], float],
) -> None:
    """Extrude a convex side view across the car; `heat` maps a face's x and whether it faces up to its heat."""
    widths = np.interp(side[:, 1], (side[:, 1].min(), side[:, 1].max()), half_widths)
    left, right = (np.column_stack((side[:, 0], widths * sign, side[:, 1])) for sign in LEFT_RIGHT)
    for face, sign in ((left, 1), (right, -1)):
        body.plate(face, heat(0.0, False), layer, vec(0, sign, 0))
    for i in range(len(side)):
        j = (i + 1) % len(side)
        outward = vec(-(side[j, 1] - side[i, 1]), 0, side[j, 0] - side[i, 0])
        quad = np.stack((left[i], left[j], right[j], right[i]))
        body.plate(quad, heat(float(side[(i, j), 0].mean()), outward[2] > abs(outward[0])), layer, outward)


def add_wheels(body: Body, tyre: float, rim: float, rear: float, front: float) -> None:
    """Add four wheels: the tread under the car, and a disc with a rim on its flank."""
    angles = np.linspace(0, 2 * np.pi, 17)[:-1]
    circle = np.column_stack((np.cos(angles), np.zeros(16), np.sin(angles)))
    for x in (rear, front):
        for side in LEFT_RIGHT:
            body.plate(upright(x, 0.75 * side, 0.3, 0.13, 0.3), tyre, 0)
            flank = vec(x, 0.89 * side, 0.32)
            body.plate(flank + circle * 0.38, tyre * 0.6, 3, vec(0, side, 0))
            body.plate(flank + circle * 0.32, tyre, 4, vec(0, side, 0))
            body.plate(flank + circle * 0.17, rim, 5, vec(0, side, 0))


def add_windows(body: Body, cabin: FloatArray, glass: float, screen: float) -> None:
    """Add side windows, divided by a pillar, a windscreen and a rear window to the cabin."""
    low, high = cabin[0, 1] + 0.07, cabin[1, 1] - 0.07
    edge = [np.interp((low, high), cabin[pair, 1], cabin[pair, 0]) for pair in ((0, 1), (3, 2))]
    middle = (edge[0][1] + edge[1][1]) / 2
    for side in LEFT_RIGHT:
        for back, front in ((edge[0] + 0.12, middle - 0.05), (middle + 0.05, edge[1] - 0.12)):
            xs = np.broadcast_to(back, 2), np.broadcast_to(front, 2)
            outline = ((xs[0][0], low), (xs[0][1], high), (xs[1][1], high), (xs[1][0], low))
            pane = np.array([(x, side * (0.82 - 0.18 * (z - cabin[0, 1]) / 0.5), z) for x, z in outline])
            body.plate(pane, glass, 3, vec(0, side, 0))
    for (x_low, x_high), direction in zip(edge, (-1, 1), strict=True):
        corners = ((x_low, 0.72, low), (x_high, 0.58, high), (x_high, -0.58, high), (x_low, -0.72, low))
        slope = vec(direction * (high - low), 0, abs(x_high - x_low))
        body.plate(np.array(corners), screen, 3, slope)


def add_lights(
    body: Body, lower: FloatArray, rng: np.random.Generator, engine: float, lamp: float, running: bool
) -> None:
    """Add lamps at both ends, the grille in front, and the number plate and the exhaust behind."""
    front, rear = lower[:, 0].max() + 0.01, lower[:, 0].min() - 0.01
    low = lower[-2, 1]
    for x, face in ((front, vec(1, 0, 0)), (rear, vec(-1, 0, 0))):
        for side in LEFT_RIGHT:
            body.plate(upright(x, side * 0.63, low + 0.12, 0.16, 0.08), lamp * 1.15, 3, face)
    body.plate(upright(front, 0.0, low + 0.02, 0.42, 0.12), engine, 3, vec(1, 0, 0))
    body.plate(upright(rear, 0.0, low + 0.02, 0.26, 0.06), lamp * 0.8, 3, vec(-1, 0, 0))
    if running:
        pipe = upright(rear, 0.5 * float(rng.choice(LEFT_RIGHT)), 0.32, 0.09, 0.06)
        body.plate(pipe, min(1.0, engine * 1.25), 3, vec(-1, 0, 0))


def upright(x: float, y: float, z: float, half_width: float, half_height: float) -> FloatArray:
    """Return a vertical rectangle across the car, centred at (x, y, z)."""
    corners = ((1, 1), (-1, 1), (-1, -1), (1, -1))
    return np.array([(x, y + half_width * across, z + half_height * up) for across, up in corners])


# Street furniture, which occludes other bodies


def add_pole(body: Body, rng: np.random.Generator, climate: Climate) -> None:
    """Add a lamp post or a sign post."""
    heat, tall, thick = climate.heat(rng, 'metal'), rng.uniform(2.2, 6.0), rng.uniform(0.04, 0.11)
    body.limb(vec(0, 0, 0), vec(0, 0, tall), (thick, thick * 0.8), heat)
    if tall > 4:
        body.limb(vec(0, 0, tall), vec(rng.uniform(0.5, 1.2), 0, tall + 0.1), (0.05, 0.1), heat * 1.2)
    else:
        body.ball(vec(0, 0, tall), rng.uniform(0.25, 0.35), heat * 0.9)


def add_bush(body: Body, rng: np.random.Generator, climate: Climate) -> None:
    """Add a bush of leafy balls."""
    heat, tall = climate.heat(rng, 'foliage'), rng.uniform(0.5, 1.2)
    for _ in range(int(rng.integers(40, 70))):
        centre = vec(rng.normal(0, 0.5), rng.normal(0, 0.4), rng.uniform(0.1, 1.0) * tall)
        body.ball(centre, rng.uniform(0.07, 0.18), heat * rng.uniform(0.85, 1.1))


def add_tree(body: Body, rng: np.random.Generator, climate: Climate) -> None:
    """Add a tree: a trunk and a crown."""
    heat, trunk = climate.heat(rng, 'foliage'), rng.uniform(1.6, 2.6)
    body.limb(vec(0, 0, 0), vec(0, 0, trunk + 1), (rng.uniform(0.12, 0.25), 0.1), climate.heat(rng, 'wall'))
    for _ in range(int(rng.integers(50, 80))):
        centre = vec(rng.normal(0, 0.7), rng.normal(0, 0.7), trunk + rng.uniform(0.2, 2.2))
        body.ball(centre, rng.uniform(0.15, 0.4), heat * rng.uniform(0.85, 1.1))
