"""The page: what is shown where, and what happens when it is touched. What is said is decided in other files."""

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from answers import HINT, VERDICTS, draw, say, verdict_of
from drawn import choose_crops, draw_frames
from frames import PERCENTILES, ZOOM, BoxedFrame, draw_boxes, open_boxed_frame
from PIL import Image, ImageDraw
from promises import ALWAYS, Promise, name_rate

from timm_convattn.data.images import decode_image
from timm_convattn.errors import InputError
from timm_convattn.inference import Classifier

__all__ = ['STYLE', 'THEME', 'Page']

# fonts that a system has: the theme's own need not be there, and others would be asked for elsewhere
FONTS = ('ui-sans-serif', 'system-ui', '-apple-system', 'Segoe UI', 'Roboto', 'Liberation Sans', 'sans-serif')
MONO = ('ui-monospace', 'SFMono-Regular', 'Menlo', 'Consolas', 'Liberation Mono', 'monospace')
THEME = gr.themes.Default(primary_hue='orange', secondary_hue='orange', neutral_hue='slate', font=FONTS, font_mono=MONO)
STYLE = Path(__file__).parent / 'style.css'
TITLE = 'What is in this thermal image?'
LIKELIEST = 'the likeliest'
HOW = 'Click the crop above to see where that place of it looks.'
PICTURE_SIDE = 360  # pixels of the longer side of a crop on the page
COLUMNS = ['box', 'class', 'confidence', 'verdict', 'annotated as']
# one at a time: an explanation watches the layers of the one model while it runs
IN_TURN: Any = {'concurrency_id': 'model', 'concurrency_limit': 1, 'api_visibility': 'private'}

Position = tuple[int, int]


@dataclass(frozen=True)
class Panel:
    """The components that show one crop, the answer and the explanation."""

    crop: gr.State
    position: gr.State
    picture: gr.Image
    everywhere: gr.Button
    card: gr.HTML
    explanation: gr.Column
    label: gr.Dropdown
    figure: gr.Image
    words: gr.HTML

    @property
    def shown(self) -> list[Any]:
        """What `Page.answer` gives."""
        return [self.crop, self.position, self.picture, self.everywhere, self.card, self.explanation]


class Page:
    """The demo of one model.

    Args:
        name: Of the model.
        promises: What can be wished of it.
        wanted: The error rate that is wished at first, one of them; None: to answer always.
    """

    def __init__(self, name: str, promises: dict[str, Promise], wanted: float | None = None) -> None:
        self.promises = promises
        self.first = name_rate(wanted)
        self.classifier = promises[ALWAYS].classifier
        self.about = _describe(name, self.classifier)
        self.frames = draw_frames()
        self.crops = choose_crops(self.frames)

    # what happens

    def answer(self, wish: str, crop: Image.Image | None, position: Position | None = None) -> list[Any]:
        """Answer a crop, for `Panel.shown`; with no crop, take the last answer away."""
        everywhere, explanation = gr.update(visible=position is not None), gr.update(visible=crop is not None)
        if crop is None:
            return [None, None, gr.update(value=None, visible=False), everywhere, HINT, explanation]
        promise = self.promises[wish]
        card = say(promise.classifier.classify([crop])[0], promise)
        picture = gr.update(value=_enlarged(crop, position), visible=True)
        return [crop, position, picture, everywhere, card, explanation]

    def explain(self, label: str, crop: Image.Image | None, position: Position | None) -> tuple[Any, str]:
        """Explain a crop: the figure, and the same in words."""
        if crop is None:
            return None, ''
        try:
            found = self.classifier.explain(crop, None if label == LIKELIEST else label, position)
            return draw(found), _details(found.describe())
        except InputError as error:
            return None, _note(f'There is no explanation. {error}')

    def open_crop(self, wish: str, path: str | None) -> list[Any]:
        """Answer an uploaded image."""
        if path is None:
            return self.answer(wish, None)
        try:
            crop = decode_image(Path(path), Path(path).name, self.classifier.mode, PERCENTILES, upright=True)
        except InputError as error:
            _warn(error)
            return self.answer(wish, None)
        return self.answer(wish, crop)

    def choose_example(self, wish: str, event: gr.SelectData) -> list[Any]:
        """Answer an example, and take out what was uploaded."""
        return [None, *self.answer(wish, self.crops[event.index][0])]

    def look_from(self, wish: str, crop: Image.Image, event: gr.SelectData) -> list[Any]:
        """Look from the place that was clicked."""
        column, row = (int(place / _scale(crop)) for place in event.index)
        return self.answer(wish, crop, (min(row, crop.height - 1), min(column, crop.width - 1)))

    def open_frame(self, wish: str, frame: str | None, annotations: str | None) -> list[Any]:
        """Answer each box of an uploaded frame, when both files are there."""
        if frame is None or annotations is None:
            return [None, *self._without_boxes(wish, _missing(frame, annotations))]
        try:
            boxed = open_boxed_frame(Path(frame), Path(annotations))
        except InputError as error:
            _warn(error)
            return [None, *self._without_boxes(wish)]
        return [boxed, *self.choose_box(wish, boxed, 0)]

    def choose_frame(self, wish: str, event: gr.SelectData) -> list[Any]:
        """Answer each box of an example, and take out what was uploaded."""
        boxed = self.frames[event.index]
        return [None, None, boxed, *self.choose_box(wish, boxed, 0)]

    def choose_box(self, wish: str, boxed: BoxedFrame | None, chosen: int) -> list[Any]:
        """Show a frame with the answers to all of its boxes, and the answer to one."""
        if boxed is None:
            return self._without_boxes(wish)
        promise, crops = self.promises[wish], boxed.crops()
        predictions = promise.classifier.classify(crops)
        rows = [
            [index + 1, said.label, f'{said.confidence:.1%}', VERDICTS[verdict_of(said, promise)], box.category]
            for index, (box, said) in enumerate(zip(boxed.boxes, predictions, strict=True))
        ]
        left_out = '; '.join(f'{reason} ({count:,})' for reason, count in boxed.left_out.items())
        status = 'Click a box, or a row of the table below.' + (f' Left out: {left_out}.' if left_out else '')
        picture = gr.update(value=draw_boxes(boxed, predictions, chosen), visible=True)
        table = gr.update(value=rows, visible=True)
        return [chosen, _note(status), picture, table, *self.answer(wish, crops[chosen])]

    def click_frame(self, wish: str, boxed: BoxedFrame, chosen: int, event: gr.SelectData) -> list[Any]:
        """Choose the box that was clicked in the picture."""
        found = boxed.box_at(event.index[0] / ZOOM, event.index[1] / ZOOM)
        return self.choose_box(wish, boxed, chosen if found is None else found)

    def click_row(self, wish: str, boxed: BoxedFrame, event: gr.SelectData) -> list[Any]:
        """Choose the box whose row was clicked; the rows may have been sorted."""
        return self.choose_box(wish, boxed, int(event.row_value[0]) - 1)

    def _without_boxes(self, wish: str, status: str = '') -> list[Any]:
        hidden = gr.update(value=None, visible=False)
        return [0, _note(status or NO_FRAME), hidden, hidden, *self.answer(wish, None)]

    # what is where

    def build(self) -> gr.Blocks:
        """Lay the page out."""
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
            gr.HTML(f'<h1>{TITLE}</h1><p>{self.about}</p>', elem_id='head')
            wish = gr.Radio(
                list(self.promises),
                value=self.first,
                label='Share of wrong answers to allow',
                visible=len(self.promises) > 1,
                elem_id='wish',
            )
            meaning = gr.HTML(self._meaning(self.first), elem_id='meaning')
            wish.change(self._meaning, wish, meaning, **IN_TURN)
            with gr.Tab('A crop', id='crop'):
                self._build_crop_tab(wish)
            with gr.Tab('A frame with boxes', id='frame'):
                self._build_frame_tab(wish)
        return blocks

    def _meaning(self, wish: str) -> str:
        promise = self.promises[wish]
        return _note(promise.meaning, 'note impossible' if promise.is_impossible else 'note')

    def _build_crop_tab(self, wish: gr.Radio) -> None:
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                file = _drop('A thermal image of one object', 'image', 'crop-file')
                gallery = _gallery('Or one of these, which are drawn', self.crops, 4, 'crop-examples')
            with gr.Column(scale=5, min_width=340):
                panel = self._build_answer('crop')
        self._build_explanation(panel, wish)
        for event in (file.upload, file.clear):
            self._explain_after(event(self.open_crop, [wish, file], panel.shown, **IN_TURN), panel)
        chosen = gallery.select(self.choose_example, wish, [file, *panel.shown], **IN_TURN)
        self._explain_after(chosen, panel)
        wish.change(self.answer, [wish, panel.crop, panel.position], panel.shown, **IN_TURN)

    def _build_frame_tab(self, wish: gr.Radio) -> None:
        boxed, chosen = gr.State(), gr.State(0)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                frame = _drop('A thermal frame', 'image', 'frame-file')
                coco = _drop('Its COCO annotations, as FLIR has them', '.json', 'boxes-file')
                examples = [(scene.image, f'{len(scene.boxes)} boxes') for scene in self.frames]
                gallery = _gallery('Or one of these, which are drawn', examples, 2, 'frame-examples')
            with gr.Column(scale=5, min_width=340):
                status = gr.HTML(_note(NO_FRAME), elem_id='frame-status')
                picture = _picture('The frame', 'frame-picture')
                panel = self._build_answer('box')
                table = gr.Dataframe(headers=COLUMNS, interactive=False, visible=False, max_height=420, elem_id='boxes')
        self._build_explanation(panel, wish)
        filled = [chosen, status, picture, table, *panel.shown]
        files = [frame, coco]
        events = [
            *(event(self.open_frame, [wish, *files], [boxed, *filled], **IN_TURN) for event in _changes(files)),
            gallery.select(self.choose_frame, wish, [*files, boxed, *filled], **IN_TURN),
            picture.select(self.click_frame, [wish, boxed, chosen], filled, **IN_TURN),
            table.select(self.click_row, [wish, boxed], filled, **IN_TURN),
            wish.change(self.choose_box, [wish, boxed, chosen], filled, **IN_TURN),
        ]
        for event in events:
            self._explain_after(event, panel)

    def _build_answer(self, name: str) -> Panel:
        """Lay out the answer to a crop; `_build_explanation` lays out the rest, where it is called."""
        with gr.Row():
            with gr.Column(scale=3, min_width=280):
                card = gr.HTML(HINT, elem_id=f'{name}-answer')
            with gr.Column(scale=2, min_width=220):
                picture = _picture('What the model is shown. Click where it should look from.', f'{name}-picture')
                everywhere = gr.Button('Look from everywhere', size='sm', visible=False, elem_id=f'{name}-everywhere')
        classes = [LIKELIEST, *self.classifier.class_names]
        return Panel(
            gr.State(),
            gr.State(),
            picture,
            everywhere,
            card,
            gr.Column(visible=False, render=False),
            gr.Dropdown(
                classes, value=LIKELIEST, label='Class to explain', info=HOW, elem_id=f'{name}-label', render=False
            ),
            _picture('Where it looks, and why', f'{name}-figure', visible=True, render=False),
            gr.HTML(elem_id=f'{name}-words', render=False),
        )

    def _build_explanation(self, panel: Panel, wish: gr.Radio) -> None:
        """Lay out the explanation, over the whole width, and connect what asks for another one."""
        panel.explanation.render()
        with panel.explanation:
            panel.label.render()
            panel.figure.render()
            panel.words.render()
        looked_at = [wish, panel.crop]
        self._explain_after(panel.picture.select(self.look_from, looked_at, panel.shown, **IN_TURN), panel)
        self._explain_after(panel.everywhere.click(self.answer, looked_at, panel.shown, **IN_TURN), panel)
        asked = [panel.label, panel.crop, panel.position]
        panel.label.change(self.explain, asked, [panel.figure, panel.words], **IN_TURN)

    def _explain_after(self, event: Any, panel: Panel) -> None:
        """Explain when an answer is on the page: that takes longer."""
        asked = [panel.label, panel.crop, panel.position]
        event.then(self.explain, asked, [panel.figure, panel.words], **IN_TURN)


NO_FRAME = 'Drop a frame and its annotations, or choose one that is drawn.'


def _missing(frame: str | None, annotations: str | None) -> str:
    if frame is not None:
        return 'Now drop the annotations of this frame. A crop, which needs none, goes into the other tab.'
    return NO_FRAME if annotations is None else 'Now drop the frame that these annotations are of.'


def _changes(files: list[gr.File]) -> list[Any]:
    return [event for file in files for event in (file.upload, file.clear)]


def _describe(name: str, classifier: Classifier) -> str:
    """Say in a line which model this is; where its folder lies on this machine is nobody's business."""
    architecture = getattr(classifier.model, 'pretrained_cfg', {}).get('architecture', 'a model')
    channels, height, width = classifier.data_config['input_size']
    seen = f'{height} x {width} pixels, {"grey" if channels == 1 else "colour"}'
    source = [name.removeprefix('hf-hub:')] if name.startswith('hf-hub:') else []
    classes = ', '.join(classifier.class_names[:8]) + (' ...' if len(classifier.class_names) > 8 else '')
    return html.escape(' · '.join([*source, architecture, seen, classes]))


def _note(text: str, kind: str = 'note') -> str:
    return f'<p class="{kind}">{html.escape(text)}</p>'


def _details(text: str) -> str:
    return f'<details><summary>In words</summary><pre>{html.escape(text)}</pre></details>'


def _warn(error: InputError) -> None:
    """Show a sentence, of which file names and annotations may have written a part."""
    text = ''.join(letter if letter.isprintable() else '?' for letter in str(error))
    gr.Warning(html.escape(text[:800]), duration=15, title='This cannot be used')


def _drop(label: str, kind: str, name: str) -> gr.File:
    gr.HTML(_note(label, 'caption'))
    return gr.File(label=label, show_label=False, file_types=[kind], height=130, elem_id=name)


def _picture(label: str, name: str, visible: bool = False, render: bool = True) -> gr.Image:
    return gr.Image(
        label=label,
        show_label=False,
        format='png',
        interactive=False,
        visible=visible,
        render=render,
        elem_id=name,
        buttons=['fullscreen', 'download'],
    )


def _gallery(label: str, items: list[tuple[Image.Image, str]], columns: int, name: str) -> gr.Gallery:
    gr.HTML(_note(label, 'caption'))
    return gr.Gallery(
        items,
        label=label,
        show_label=False,
        columns=columns,
        object_fit='contain',
        height='auto',
        allow_preview=False,
        interactive=False,
        format='png',
        elem_id=name,
        elem_classes='examples',
    )


def _scale(crop: Image.Image) -> float:
    return PICTURE_SIDE / max(crop.size)


def _enlarged(crop: Image.Image, position: Position | None) -> Image.Image:
    """Enlarge a crop so that its pixels can be seen, with a ring round the one that looks."""
    scale = _scale(crop)
    size = (max(round(crop.width * scale), 1), max(round(crop.height * scale), 1))
    picture = crop.convert('RGB').resize(size, Image.Resampling.NEAREST)
    if position is not None:
        x, y, radius = (position[1] + 0.5) * scale, (position[0] + 0.5) * scale, 9
        ring = (x - radius, y - radius, x + radius, y + radius)
        ImageDraw.Draw(picture).ellipse(ring, outline='#f97316', width=4)
    return picture
