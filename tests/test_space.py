"""The demo: its answers to valid and invalid files, and the page in a real browser."""

import base64
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from made_once import trained_run
from packaging.requirements import Requirement
from packaging.version import Version
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from script_runner import run_script

from timm_convattn.data.flir import Frame, read_annotations, read_frame
from timm_convattn.data.thermal_scenes import write_scenes
from timm_convattn.errors import InputError
from timm_convattn.hub.saving import save_model
from timm_convattn.inference import Classifier, Prediction, load_classifier
from timm_convattn.predictions import Predictions
from timm_convattn.rejection import Rejection

gradio = pytest.importorskip('gradio', reason='the demo needs gradio: extra demo')

SPACE = Path(__file__).parent.parent / 'hub_cards' / 'space'
ALLOWED = 0.1  # error rate that the browser asks for
CLASSES = ('person', 'vehicle', 'bicycle', '<b>dog</b>')
sys.path.insert(0, str(SPACE))  # the modules of a Space are in its root

import cards  # noqa: E402
import frames  # noqa: E402
import page as pages  # noqa: E402
from targets import ALWAYS, list_targets  # noqa: E402


@pytest.fixture(scope='module')
def model_folder(tmp_path_factory):
    """An untrained model with a rejection.json."""
    folder = tmp_path_factory.mktemp('space') / 'model'
    folder.mkdir()
    torch.manual_seed(0)
    model = timm.create_model('aresnet18_relmha', num_classes=4, in_chans=1, img_size=60)
    save_model(
        model, folder, CLASSES, {'input_size': (1, 60, 60), 'mean': (0.5,), 'std': (0.25,), 'crop_mode': 'squash'}
    )
    confidence = np.linspace(0.2, 1, 1000)
    Rejection(1.0, confidence, confidence > 0.5).save(folder)
    return folder


@pytest.fixture(scope='module')
def classifier(model_folder):
    return load_classifier(f'local-dir:{model_folder}')


@pytest.fixture(scope='module')
def page(classifier):
    return pages.Page('local-dir:model', list_targets(classifier))


@pytest.fixture
def warnings(monkeypatch):
    """The messages that the page would show."""
    messages = []
    monkeypatch.setattr(gradio, 'Warning', lambda message, **_: messages.append(message))
    return messages


@pytest.fixture
def uploads(flir_writer, tmp_path):
    """A frame and its annotations as after an upload: each in a separate folder."""
    writer = flir_writer('v1.3', size=(64, 48))
    coco = writer.split('train', [[('person', [2, 2, 20, 30]), ('car', [30, 10, 60, 20])], [('dog', [1, 1, 9, 9])]])
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
    frame = Path(shutil.copy(writer.frames('train')[0], tmp_path / 'a'))
    return frame, tmp_path / 'b' / 'boxes.json', coco


def test_each_error_rate_has_its_threshold_or_the_reason_why_not(classifier):
    targets = list_targets(classifier, 0.0025)
    assert list(targets) == [ALWAYS, '20 %', '10 %', '5 %', '2 %', '1 %', '0.25 %']
    assert targets['10 %'].classifier.threshold == classifier.rejection.threshold(0.1)
    assert f'{targets["10 %"].classifier.threshold:.1%}' in targets['10 %'].meaning
    assert targets['0.25 %'].is_impossible
    with pytest.raises(InputError, match='No threshold keeps') as refused:
        classifier.rejection.threshold(0.0025)
    assert targets['0.25 %'].meaning == str(refused.value)


def test_a_model_without_rejection_is_described_as_such(classifier):
    plain = replace(classifier, rejection=None)
    assert list(list_targets(plain)) == [ALWAYS]
    assert 'cannot reject. Fine-tune it with --hold-out' in list_targets(plain)[ALWAYS].meaning
    with pytest.raises(InputError, match='cannot reject'):
        list_targets(plain, 0.1)


def test_the_card_has_class_confidence_and_verdict_and_escapes_names(classifier):
    targets = list_targets(classifier)
    logits = np.array([[0, 0, 0, 6], [0, 0, 0, 1]], np.float32)
    confident, rejected = targets['1 %'].classifier.decide(logits)
    assert 'Answered' in cards.format_card(confident, targets['1 %'])
    assert 'Confidence 99.3%; the threshold is' in cards.format_card(confident, targets['1 %'])
    assert '&lt;b&gt;dog&lt;/b&gt;' in cards.format_card(confident, targets['1 %'])
    assert '<b>dog' not in cards.format_card(confident, targets['1 %'])
    assert 'Rejected' in cards.format_card(rejected, targets['1 %'])
    assert 'No error rate is guaranteed' in cards.format_card(rejected, targets[ALWAYS])


def test_the_boxes_of_the_uploaded_frame_are_found_and_clipped(uploads):
    frame, annotations, coco = uploads
    coco['annotations'].append({'id': 9, 'image_id': 0, 'category_id': 1, 'bbox': [500, 500, 5, 5], 'iscrowd': 0})
    annotations.write_text(json.dumps(coco))
    boxed = frames.open_boxed_frame(frame, annotations)
    assert [(box.category, box.x, box.y, box.w, box.h) for box in boxed.boxes] == [
        ('person', 2, 2, 20, 30),
        ('car', 30, 10, 34, 20),
    ]
    assert boxed.left_out == {'box outside its frame': 1}
    assert [crop.size for crop in boxed.crops()] == [(20, 30), (34, 20)]
    assert (boxed.box_at(5, 5), boxed.box_at(63, 29), boxed.box_at(25, 5)) == (0, 1, None)


@pytest.mark.parametrize('path', ['/etc/hostname', '../../../../etc/hostname', 'C:\\frames\\other.png', 'thermal/{}'])
def test_paths_in_annotations_are_not_followed(uploads, path):
    frame, annotations, coco = uploads
    coco['images'] = [{**coco['images'][0], 'file_name': path.format(frame.name)}]
    annotations.write_text(json.dumps(coco))
    boxed = frames.open_boxed_frame(frame, annotations)
    assert np.array_equal(np.asarray(boxed.image), np.asarray(Image.open(frame)))


def duplicate_names(coco):
    coco['images'] = [
        {**item, 'file_name': f'{item["id"]}/{coco["images"][0]["file_name"]}'} for item in coco['images']
    ]


def other_names(coco):
    coco['images'] = [{**item, 'file_name': f'other{item["id"]}.jpeg'} for item in coco['images']]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda coco: '{"images": ', r'boxes\.json holds no COCO annotations'),
        (lambda coco: '[' * 100_000, r'boxes\.json holds no COCO annotations'),
        (lambda coco: '[1, 2]', r'boxes\.json holds no COCO annotations'),
        (lambda coco: coco.pop('annotations') and None, r'boxes\.json holds no COCO annotations'),
        (lambda coco: coco.update(categories='x'), r'boxes\.json has no list of objects "categories"'),
        (lambda coco: coco['images'][0].update(width='64'), r'boxes\.json: "width"'),
        (lambda coco: coco['images'][0].update(width=640, height=480), 'its annotations 640 x 480'),
        (duplicate_names, r'boxes\.json lists 2 images named'),
        (other_names, r'boxes\.json lists 2 images and none is named TEST_00000\.jpeg'),
        (lambda coco: coco['annotations'].clear(), r'boxes\.json has no box of TEST_00000\.jpeg'),
        (lambda coco: coco['annotations'].__setitem__(slice(None), coco['annotations'][:1] * 201), 'has 201 boxes'),
    ],
)
def test_invalid_annotations_are_reported_without_a_path_of_the_server(
    uploads, page, warnings, tmp_path, change, message
):
    frame, annotations, coco = uploads
    text = change(coco)
    annotations.write_text(text if isinstance(text, str) else json.dumps(coco))
    boxed, *shown = page.open_frame(ALWAYS, str(frame), str(annotations))
    assert boxed is None
    assert cards.HINT in shown
    assert len(warnings) == 1
    assert re.search(message, warnings[0].replace('&quot;', '"'))
    assert str(tmp_path) not in warnings[0]
    assert '/tmp' not in warnings[0]


def write_bomb(path):
    Image.new('1', (9000, 9000)).save(path)


@pytest.mark.parametrize(
    ('name', 'write', 'message'),
    [
        ('torn.png', lambda path: path.write_bytes(b'\x89PNG\r\n\x1a\n and no more'), 'cannot be decoded'),
        ('empty.jpg', lambda path: path.write_bytes(b''), 'cannot be decoded'),
        ('bomb.png', write_bomb, 'more than any thermal camera has'),
    ],
)
def test_invalid_images_are_reported(page, warnings, tmp_path, name, write, message):
    write(tmp_path / name)
    assert page.open_crop(ALWAYS, str(tmp_path / name))[4] == cards.HINT
    assert len(warnings) == 1
    assert warnings[0].startswith(name)
    assert message in warnings[0]


def test_a_16_bit_image_is_scaled_and_answered(page, warnings, tmp_path):
    counts = np.random.default_rng(0).integers(7000, 9000, (40, 30)).astype(np.uint16)
    Image.fromarray(counts).save(tmp_path / 'raw.tiff')
    crop, _, _, _, card, _ = page.open_crop(ALWAYS, str(tmp_path / 'raw.tiff'))
    assert (crop.size, crop.mode, warnings) == ((30, 40), 'L', [])
    assert 'class="label"' in card


def test_the_page_names_the_missing_file(page):
    assert page.open_crop(ALWAYS, None)[4] == cards.HINT
    assert page.explain(pages.PREDICTED, None, None) == (None, '')
    assert 'Now drop the annotations' in page.open_frame(ALWAYS, 'frame.png', None)[2]
    assert 'Now drop the frame' in page.open_frame(ALWAYS, None, 'coco.json')[2]


def test_a_crop_is_explained_by_a_figure_and_as_text(page):
    figure, text = page.explain(CLASSES[2], page.crops[0][0], (3, 4))
    assert min(figure.size) > 300
    assert '&lt;b&gt;dog' in text


def test_a_model_without_a_feature_map_answers_without_an_explanation(page):
    vit = timm.create_model('vit_tiny_patch16_224', num_classes=4, img_size=32, depth=1).eval()
    config = {**timm.data.resolve_data_config(model=vit), 'input_size': (3, 32, 32)}
    other = pages.Page('vit', list_targets(Classifier(vit, CLASSES, config)))
    crop = page.crops[0][0]
    assert 'class="label"' in other.answer(ALWAYS, crop)[4]
    figure, text = other.explain(pages.PREDICTED, crop, None)
    assert figure is None
    assert 'There is no explanation.' in text


def test_examples_are_of_all_classes_and_have_their_boxes(page):
    assert {name for _, name in page.crops} == {'person', 'vehicle', 'bicycle', 'dog'}
    assert all(frame.boxes for frame in page.frames)


def test_without_a_model_the_app_names_the_option(monkeypatch):
    monkeypatch.delenv('MODEL', raising=False)
    ended = run_script(SPACE / 'app.py')
    assert ended.returncode == 1
    assert ended.stderr.startswith('error: No model is given.')
    assert ended.stderr.count('\n') == 1
    monkeypatch.setenv('MODEL', 'local-dir:nowhere')
    assert 'nowhere' in run_script(SPACE / 'app.py').stderr


def test_the_space_installs_what_the_package_needs(root):
    project = tomllib.loads((root / 'pyproject.toml').read_text())['project']
    needed = {*project['dependencies'], *project['optional-dependencies']['explain']}
    lines = (SPACE / 'requirements.txt').read_text().splitlines()
    assert {line for line in lines if not line.startswith('#')} == needed


def test_the_card_of_the_space_is_valid(root):
    from huggingface_hub import SpaceCard

    data = SpaceCard.load(SPACE / 'README.md').data.to_dict()
    demo = tomllib.loads((root / 'pyproject.toml').read_text())['project']['optional-dependencies']['demo']
    wanted = next(Requirement(line) for line in demo if line.startswith('gradio'))
    assert data['sdk'] == 'gradio'
    assert Version(data['sdk_version']) in wanted.specifier
    assert (SPACE / data['app_file']).is_file()
    assert len(data['short_description']) <= 60
    assert 'models' not in data


@dataclass(frozen=True)
class Site:
    """The app of a trained model, and a drawn frame with the predictions for its boxes in this process."""

    address: str
    folder: Path
    frame: Frame
    annotations: Path
    predictions: list[Prediction]


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp('site')
    shutil.copytree(trained_run() / 'model', folder / 'model')
    # fitted to the validation crops
    Rejection.learn(Predictions.load(trained_run() / 'validation.safetensors')).save(folder / 'model')
    write_scenes(folder / 'flir', seed=77, num_train=1, num_val=1)
    annotations = folder / 'flir' / 'val' / 'thermal_annotations.json'
    frame = read_annotations(annotations).frames[0]
    image = read_frame(frame)
    crops = [image.crop((box.x, box.y, box.x + box.w, box.y + box.h)) for box in frame.boxes]
    crops[0].save(folder / 'crop.png')
    (folder / 'torn.png').write_bytes((folder / 'crop.png').read_bytes()[:60])
    predictions = load_classifier(f'local-dir:{folder / "model"}', reject_at=ALLOWED).classify(crops)
    with app(folder / 'model', folder / 'app.log') as address:
        yield Site(address, folder, frame, annotations, predictions)
    assert 'Traceback' not in (folder / 'app.log').read_text()


@contextmanager
def app(model, log):
    """Run the app in a process; yields its address once it answers, and stops it at the end."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    command = [sys.executable, SPACE / 'app.py', '--model', f'local-dir:{model}', '--port', port]
    with log.open('w') as output:
        process = subprocess.Popen([*map(str, command)], stdout=output, stderr=subprocess.STDOUT)
    try:
        address, ends = f'http://127.0.0.1:{port}/', time.monotonic() + 180
        while not is_there(address):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def is_there(address):
    try:
        return urllib.request.urlopen(address, timeout=10).status == 200
    except OSError:
        return False


@pytest.fixture
def browsed(site):
    """The page in a browser, which makes no other requests and raises no errors."""
    if shutil.which('chromium') is None:
        pytest.skip('there is no Chromium: apt-get install chromium')
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which('chromium'),
            args=['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update'],
        )
        page = browser.new_page(viewport={'width': 1280, 'height': 1000})
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        requests, errors = [], []
        page.on('request', lambda request: requests.append(request.url))
        page.on('pageerror', lambda error: errors.append(str(error)))
        page.goto(site.address)
        yield page
        assert page.evaluate('document.documentElement.scrollWidth') <= 1280
        hosts = {urllib.parse.urlsplit(url).hostname for url in requests if not url.startswith(('data:', 'blob:'))}
        assert (hosts, errors) == ({'127.0.0.1'}, [])
        browser.close()


def drop(page, selector, path, kind):
    """Drop a file on an element."""
    create = """([name, type, data]) => {
        const dropped = new DataTransfer();
        dropped.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name, {type}));
        return dropped;
    }"""
    data = page.evaluate_handle(create, [path.name, kind, base64.b64encode(path.read_bytes()).decode()])
    page.dispatch_event(f'{selector} button', 'drop', {'dataTransfer': data})


def has_drawn(page, selector):
    page.wait_for_function(f"document.querySelector('{selector} img')?.naturalWidth > 500")
    return True


@pytest.mark.slow
def test_in_a_browser_a_dropped_crop_is_answered_and_explained(site, browsed):
    expected = site.predictions[0]
    drop(browsed, '#crop-file', site.folder / 'crop.png', 'image/png')
    expect(browsed.locator('#crop-answer .label')).to_have_text(expected.label)
    expect(browsed.locator('#crop-answer .probability').first).to_have_text(f'{expected.confidence:.1%}')
    expect(browsed.locator('#crop-answer .verdict')).to_have_text('Answered')
    browsed.get_by_label(f'{ALLOWED:.0%}'.replace('%', ' %'), exact=True).check()
    expect(browsed.locator('#meaning')).to_contain_text('Images with a confidence of at least')
    expect(browsed.locator('#crop-answer .verdict')).to_have_text('Answered' if expected.is_answered else 'Rejected')
    expect(browsed.locator('#crop-answer .why')).to_contain_text('the threshold is')
    assert has_drawn(browsed, '#crop-figure')
    browsed.locator('#crop-image img').click(position={'x': 20, 'y': 20})
    expect(browsed.locator('#crop-words pre')).to_contain_text(re.compile(r'row \d+, column \d+ attends most'))
    browsed.locator('#crop-all-positions').click()
    expect(browsed.locator('#crop-words pre')).to_contain_text('all positions attend most')


@pytest.mark.slow
def test_in_a_browser_a_broken_image_is_reported(site, browsed):
    drop(browsed, '#crop-file', site.folder / 'torn.png', 'image/png')
    expect(browsed.get_by_text('torn.png cannot be decoded')).to_be_visible()
    expect(browsed.locator('#crop-answer')).to_contain_text('The answer appears here.')


@pytest.mark.slow
def test_in_a_browser_a_dropped_frame_is_answered_box_by_box(site, browsed):
    browsed.get_by_label(f'{ALLOWED:.0%}'.replace('%', ' %'), exact=True).check()
    browsed.get_by_role('tab', name='A frame with boxes').click()
    drop(browsed, '#frame-file', site.frame.path, 'image/jpeg')
    expect(browsed.locator('#frame-status')).to_contain_text('Now drop the annotations')
    drop(browsed, '#boxes-file', site.annotations, 'application/json')
    expect(browsed.locator('#box-answer .label')).to_have_text(site.predictions[0].label)
    table = browsed.locator('#boxes')
    for index, (prediction, box) in enumerate(zip(site.predictions[:5], site.frame.boxes[:5], strict=True)):
        verdict = 'Answered' if prediction.is_answered else 'Rejected'
        row = f'{index + 1} {prediction.label} {prediction.confidence:.1%} {verdict} {box.category}'
        expect(table.get_by_role('row', name=row, exact=True)).to_be_visible()
    third = f'{site.predictions[2].confidence:.1%}'
    table.get_by_role('row', name=f'3 {site.predictions[2].label} {third}').get_by_role('gridcell').nth(1).click()
    expect(browsed.locator('#box-answer .probability').first).to_have_text(third)
    assert has_drawn(browsed, '#box-figure')


@pytest.mark.slow
def test_the_demo_needs_nothing_that_training_needs():
    code = f"""
import sys
for name in ('accelerate', 'datasets', 'evaluate', 'pyarrow'):
    sys.modules[name] = None
sys.path.insert(0, {str(SPACE)!r})
import app
"""
    ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
