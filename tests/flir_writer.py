"""Small folders in the FLIR layouts, for tests to modify."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

LAYOUTS = {
    'v1.3': (
        {'train': 'train', 'val': 'val', 'video': 'video'},
        'thermal_annotations.json',
        'thermal_8_bit',
        'jpeg',
    ),
    'v2': (
        {'train': 'images_thermal_train', 'val': 'images_thermal_val', 'video': 'video_thermal_test'},
        'coco.json',
        'data',
        'jpg',
    ),
}
CATEGORIES = {'person': 1, 'bicycle': 2, 'bike': 20, 'car': 3, 'dog': 17, 'other vehicle': 91}


class FlirWriter:
    """Writes a small folder in a FLIR layout."""

    def __init__(self, folder: Path, layout: str = 'v1.3', size: tuple[int, int] = (640, 512), prefix: str = 'TEST'):
        self.folder = folder
        self.splits, self.annotations, self.images, self.ending = LAYOUTS[layout]
        self.size = size
        self.prefix = prefix
        self.count = 0

    def split(self, name: str, frames: list[list[tuple[str, list[float]]]]) -> dict:
        """Write a split; each frame is a list of (category, box). Return the annotations."""
        folder = self.folder / self.splits[name]
        (folder / self.images).mkdir(parents=True)
        coco = {
            'info': {},
            'categories': [{'id': key, 'name': name} for name, key in CATEGORIES.items()],
            'images': [],
            'annotations': [],
        }
        for index, boxes in enumerate(frames):
            file_name = f'{self.images}/{self.prefix}_{self.count:05d}.{self.ending}'
            self.count += 1
            pixels = np.random.default_rng(self.count).integers(0, 256, self.size[::-1], dtype=np.uint8)
            Image.fromarray(pixels).save(folder / file_name, quality=95)
            coco['images'].append({'id': index, 'file_name': file_name, 'width': self.size[0], 'height': self.size[1]})
            for category, box in boxes:
                coco['annotations'].append(
                    {
                        'id': len(coco['annotations']),
                        'image_id': index,
                        'category_id': CATEGORIES[category],
                        'bbox': box,
                        'iscrowd': 0,
                    }
                )
        self.write(name, coco)
        return coco

    def write(self, name: str, coco: dict) -> None:
        (self.folder / self.splits[name] / self.annotations).write_text(json.dumps(coco))

    def frames(self, name: str) -> list[Path]:
        return sorted((self.folder / self.splits[name] / self.images).iterdir())
