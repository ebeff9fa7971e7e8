"""The page: its layout and its events."""

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from cards import HINT, VERDICTS, draw, format_card, verdict_of
from frames import PERCENTILES, ZOOM, BoxedFrame, draw_boxes, open_boxed_frame
from PIL import Image, ImageDraw
from targets import ALWAYS, Target, name_rate

from examples import choose_crops, draw_frames
from timm_convattn.data.images import decode_image
from timm_convattn.errors import InputError
from timm_convattn.inference import Classifier
from timm_convattn.model_source import ModelSource

__all__ = ['STYLE', 'THEME', 'Page']

# fonts of the system: the theme would fetch its own from another server
FONTS = ('ui-sans-serif', 'system-ui', '-apple-system', 'Segoe UI', 'Roboto', 'Liberation Sans', 'sans-serif')
MONO = ('ui-monospace', 'SFMono-Regular', 'Menlo', 'Consolas', 'Liberation Mono', 'monospace')
THEME = gr.themes.Default(primary_hue='orange', secondary_hue='orange', neutral_hue='slate', font=FONTS, font_mono=MONO)
STYLE = Path(__file__).parent / 'style.css'
TITLE = 'What is in this thermal image?'
PREDICTED = 'the predicted class'
HOW = 'Click the crop above to show the attention of that position.'
IMAGE_SIDE = 360  # pixels of the longer side of a crop on the page
COLUMNS = ['box', 'class', 'confidence', 'verdict', 'annotated as']
# one at a time: an explanation puts hooks on the layers of the one model
IN_TURN: Any = {'concurrency_id': 'model', 'concurrency_limit': 1, 'api_visibility': 'private'}

Position = tuple[int, int]


@dataclass(frozen=True)
class Panel:
    """The components that show one crop, the answer and the explanation."""

    crop: gr.State
    position: gr.State
    image: gr.Image
    all_positions: gr.Button
    card: gr.HTML
    explanation: gr.Column
    label: gr.Dropdown
    figure: gr.Image
    words: gr.HTML

    @property
    def shown(self) -> list[Any]:
        """Components that `Page.answer` updates."""
        return [self.crop, self.position, self.image, self.all_positions, self.card, self.explanation]


class Page:
    """The demo of one model.

    Args:
        name: Name of the model.
        targets: Target error rates that can be chosen.
        rate: The one that is selected at first; None: to answer always.
    """

    def __init__(self, name: str, targets: dict[str, Target], rate: float | None = None) -> None:
        self.targets = targets
        self.first = name_rate(rate)
        self.classifier = targets[ALWAYS].classifier
        self.about = _describe(name, self.classifier)
        self.frames = draw_frames()
        self.crops = choose_crops(self.frames)

    # events

    def answer(self, choice: str, crop: Image.Image | None, position: Position | None = None) -> list[Any]:
        """Return the answer to a crop, for `Panel.shown`; without a crop, clear the last one."""
        all_positions, explanation = gr.update(visible=position is not None), gr.update(visible=crop is not None)
        if crop is None:
            return [None, None, gr.update(value=None, visible=False), all_positions, HINT, explanation]
        target = self.targets[choice]
        card = format_card(target.classifier.classify([crop])[0], target)
        image = gr.update(value=_enlarge(crop, position), visible=True)
        return [crop, position, image, all_positions, card, explanation]

    def explain(self, label: str, crop: Image.Image | None, position: Position | None) -> tuple[Any, str]:
        """Return the explanation of a crop as a figure and as text."""
        if crop is None:
            return None, ''
        try:
            found = self.classifier.explain(crop, None if label == PREDICTED else label, position)
            return draw(found), _details(found.describe())
        except InputError as error:
            return None, _note(f'There is no explanation. {error}')

    def open_crop(self, choice: str, path: str | None) -> list[Any]:
        """Answer an uploaded image."""
        if path is None:
            return self.answer(choice, None)
        try:
            crop = decode_image(Path(path), Path(path).name, self.classifier.mode, PERCENTILES, upright=True)
        except InputError as error:
            _warn(error)
            return self.answer(choice, None)
        return self.answer(choice, crop)

    def choose_example(self, choice: str, event: gr.SelectData) -> list[Any]:
        """Answer an example, and clear the uploaded file."""
        return [None, *self.answer(choice, self.crops[event.index][0])]

    def attend_from(self, choice: str, crop: Image.Image, event: gr.SelectData) -> list[Any]:
        """Show the attention of the clicked position."""
        column, row = (int(pixel / _scale(crop)) for pixel in event.index)
        return self.answer(choice, crop, (min(row, crop.height - 1), min(column, crop.width - 1)))

    def open_frame(self, choice: str, frame: str | None, annotations: str | None) -> list[Any]:
        """Answer each box of an uploaded frame, once both files are uploaded."""
        if frame is None or annotations is None:
            return [None, *self._without_boxes(choice, _missing(frame, annotations))]
        try:
            boxed = open_boxed_frame(Path(frame), Path(annotations))
        except InputError as error:
            _warn(error)
            return [None, *self._without_boxes(choice)]
        return [boxed, *self.choose_box(choice, boxed, 0)]

    def choose_frame(self, choice: str, event: gr.SelectData) -> list[Any]:
        """Answer each box of an example, and clear the uploaded files."""
        boxed = self.frames[event.index]
        return [None, None, boxed, *self.choose_box(choice, boxed, 0)]

    def choose_box(self, choice: str, boxed: BoxedFrame | None, chosen: int) -> list[Any]:
        """Show a frame with the answers to all of its boxes, and the card of one."""
        if boxed is None:
            return self._without_boxes(choice)
        target, crops = self.targets[choice], boxed.crops()
        predictions = target.classifier.classify(crops)
        rows = [
            [index + 1, found.label, f'{found.confidence:.1%}', VERDICTS[verdict_of(found, target)], box.category]
            for index, (box, found) in enumerate(zip(boxed.boxes, predictions, strict=True))
        ]
        left_out = '; '.join(f'{reason} ({count:,})' for reason, count in boxed.left_out.items())
        status = 'Click a box, or a row of the table below.' + (f' Left out: {left_out}.' if left_out else '')
        image = gr.update(value=draw_boxes(boxed, predictions, chosen), visible=True)
        table = gr.update(value=rows, visible=True)
        return [chosen, _note(status), image, table, *self.answer(choice, crops[chosen])]

    def click_frame(self, choice: str, boxed: BoxedFrame, chosen: int, event: gr.SelectData) -> list[Any]:
        """Choose the box that was clicked in the frame."""
        found = boxed.box_at(event.index[0] / ZOOM, event.index[1] / ZOOM)
        return self.choose_box(choice, boxed, chosen if found is None else found)

    def click_row(self, choice: str, boxed: BoxedFrame, event: gr.SelectData) -> list[Any]:
        """Choose the box whose row was clicked; the rows may have been sorted."""
        return self.choose_box(choice, boxed, int(event.row_value[0]) - 1)

    def _without_boxes(self, choice: str, status: str = '') -> list[Any]:
        hidden = gr.update(value=None, visible=False)
        return [0, _note(status or NO_FRAME), hidden, hidden, *self.answer(choice, None)]

    # layout

    def build(self) -> gr.Blocks:
        """Build the page."""
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
            gr.HTML(f'<h1>{TITLE}</h1><p>{self.about}</p>', elem_id='head')
            choice = gr.Radio(
                list(self.targets),
                value=self.first,
                label='Target error rate of the answers',
                visible=len(self.targets) > 1,
                elem_id='target',
            )
            meaning = gr.HTML(self._meaning(self.first), elem_id='meaning')
            choice.change(self._meaning, choice, meaning, **IN_TURN)
            with gr.Tab('A crop', id='crop'):
                self._build_crop_tab(choice)
            with gr.Tab('A frame with boxes', id='frame'):
                self._build_frame_tab(choice)
        return blocks

    def _meaning(self, choice: str) -> str:
        target = self.targets[choice]
        return _note(target.meaning, 'note impossible' if target.is_impossible else 'note')

    def _build_crop_tab(self, choice: gr.Radio) -> None:
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                file = _drop('A thermal image of one object', 'image', 'crop-file')
                gallery = _gallery('Or a drawn example', self.crops, 4, 'crop-examples')
            with gr.Column(scale=5, min_width=340):
                panel = self._build_answer('crop')
        self._build_explanation(panel, choice)
        for event in (file.upload, file.clear):
            self._explain_after(event(self.open_crop, [choice, file], panel.shown, **IN_TURN), panel)
        chosen = gallery.select(self.choose_example, choice, [file, *panel.shown], **IN_TURN)
        self._explain_after(chosen, panel)
        choice.change(self.answer, [choice, panel.crop, panel.position], panel.shown, **IN_TURN)

    def _build_frame_tab(self, choice: gr.Radio) -> None:
        boxed, chosen = gr.State(), gr.State(0)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                frame = _drop('A thermal frame', 'image', 'frame-file')
                coco = _drop('Its COCO annotations, as in FLIR ADAS', '.json', 'boxes-file')
                examples = [(scene.image, f'{len(scene.boxes)} boxes') for scene in self.frames]
                gallery = _gallery('Or a drawn example', examples, 2, 'frame-examples')
            with gr.Column(scale=5, min_width=340):
                status = gr.HTML(_note(NO_FRAME), elem_id='frame-status')
                image = _image('The frame', 'frame-image')
                panel = self._build_answer('box')
                table = gr.Dataframe(headers=COLUMNS, interactive=False, visible=False, max_height=420, elem_id='boxes')
        self._build_explanation(panel, choice)
        filled = [chosen, status, image, table, *panel.shown]
        files = [frame, coco]
        events = [
            *(event(self.open_frame, [choice, *files], [boxed, *filled], **IN_TURN) for event in _changes(files)),
            gallery.select(self.choose_frame, choice, [*files, boxed, *filled], **IN_TURN),
            image.select(self.click_frame, [choice, boxed, chosen], filled, **IN_TURN),
            table.select(self.click_row, [choice, boxed], filled, **IN_TURN),
            choice.change(self.choose_box, [choice, boxed, chosen], filled, **IN_TURN),
        ]
        for event in events:
            self._explain_after(event, panel)

    def _build_answer(self, name: str) -> Panel:
        """Build the answer to a crop; `_build_explanation` renders the rest."""
        with gr.Row():
            with gr.Column(scale=3, min_width=280):
                card = gr.HTML(HINT, elem_id=f'{name}-answer')
            with gr.Column(scale=2, min_width=220):
                image = _image('Input of the model. Click a position to show its attention.', f'{name}-image')
                all_positions = gr.Button('All positions', size='sm', visible=False, elem_id=f'{name}-all-positions')
        classes = [PREDICTED, *self.classifier.class_names]
        return Panel(
            gr.State(),
            gr.State(),
            image,
            all_positions,
            card,
            gr.Column(visible=False, render=False),
            gr.Dropdown(
                classes, value=PREDICTED, label='Class to explain', info=HOW, elem_id=f'{name}-label', render=False
            ),
            _image('Explanation', f'{name}-figure', visible=True, render=False),
            gr.HTML(elem_id=f'{name}-words', render=False),
        )

    def _build_explanation(self, panel: Panel, choice: gr.Radio) -> None:
        """Build the explanation, over the full width, and its events."""
        panel.explanation.render()
        with panel.explanation:
            panel.label.render()
            panel.figure.render()
            panel.words.render()
        inputs = [choice, panel.crop]
        self._explain_after(panel.image.select(self.attend_from, inputs, panel.shown, **IN_TURN), panel)
        self._explain_after(panel.all_positions.click(self.answer, inputs, panel.shown, **IN_TURN), panel)
        crop = [panel.label, panel.crop, panel.position]
        panel.label.change(self.explain, crop, [panel.figure, panel.words], **IN_TURN)

    def _explain_after(self, event: Any, panel: Panel) -> None:
        """Explain after the answer is shown, as an explanation takes longer."""
        crop = [panel.label, panel.crop, panel.position]
        event.then(self.explain, crop, [panel.figure, panel.words], **IN_TURN)


NO_FRAME = 'Drop a frame and its annotations, or choose a drawn example.'


def _missing(frame: str | None, annotations: str | None) -> str:
    if frame is not None:
        return 'Now drop the annotations of this frame. For a crop, which needs none, use the other tab.'
    return NO_FRAME if annotations is None else 'Now drop the frame of these annotations.'


def _changes(files: list[gr.File]) -> list[Any]:
    return [event for file in files for event in (file.upload, file.clear)]


def _describe(name: str, classifier: Classifier) -> str:
    """Return one line about the model, without its path on this machine."""
    architecture = getattr(classifier.model, 'pretrained_cfg', {}).get('architecture', 'a model')
    channels, height, width = classifier.data_config['input_size']
    accepts = f'{height} x {width} pixels, {"grey" if channels == 1 else "colour"}'
    source = ModelSource.parse(name)
    published = [source.pinned_id] if source.pinned_id else []
    classes = ', '.join(classifier.class_names[:8]) + (' ...' if len(classifier.class_names) > 8 else '')
    return html.escape(' · '.join([*published, architecture, accepts, classes]))


def _note(text: str, kind: str = 'note') -> str:
    return f'<p class="{kind}">{html.escape(text)}</p>'


def _details(text: str) -> str:
    return f'<details><summary>As text</summary><pre>{html.escape(text)}</pre></details>'


def _warn(error: InputError) -> None:
    """Show an error, which may contain text of uploaded files."""
    text = ''.join(letter if letter.isprintable() else '?' for letter in str(error))
    gr.Warning(html.escape(text[:800]), duration=15, title='Invalid input')


def _drop(label: str, kind: str, name: str) -> gr.File:
    gr.HTML(_note(label, 'caption'))
    return gr.File(label=label, show_label=False, file_types=[kind], height=130, elem_id=name)


def _image(label: str, name: str, visible: bool = False, render: bool = True) -> gr.Image:
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
    return IMAGE_SIDE / max(crop.size)


def _enlarge(crop: Image.Image, position: Position | None) -> Image.Image:
    """Enlarge a crop so that its pixels are visible, with a ring around `position`."""
    scale = _scale(crop)
    size = (max(round(crop.width * scale), 1), max(round(crop.height * scale), 1))
    image = crop.convert('RGB').resize(size, Image.Resampling.NEAREST)
    if position is not None:
        x, y, radius = (position[1] + 0.5) * scale, (position[0] + 0.5) * scale, 9
        ring = (x - radius, y - radius, x + radius, y + radius)
        ImageDraw.Draw(image).ellipse(ring, outline='#f97316', width=4)
    return image
