"""A pytest plugin with which timm's own, unmodified tests run on this package's models.

Loaded by `-p timm_suite_plugin` before timm's tests are collected, it registers the models and lets timm's tests see
those named in TIMM_SUITE_MODELS and no others.
"""

import os

import timm
import timm.models

from timm_convattn.models import MODULES  # registers the models

WANTED = set(os.environ['TIMM_SUITE_MODELS'].split(','))
NEED_WEIGHTS = {'test_model_load_pretrained', 'test_model_features_pretrained', 'test_model_inference'}
list_all_models = timm.list_models


def is_wanted(name):
    return isinstance(name, str) and name.split('.')[0] in WANTED


def list_our_models(filter='', module='', *args, **kwargs):
    if not isinstance(module, str):  # timm's list of the modules whose models give intermediate features: ours do too
        module = [*module, *MODULES]
    return [name for name in list_all_models(filter, module, *args, **kwargs) if is_wanted(name)]


timm.list_models = timm.models.list_models = list_our_models


def pytest_collection_modifyitems(config, items):
    """Keep the tests that are about one of our models and need no download."""
    kept = [
        item
        for item in items
        if is_wanted(getattr(getattr(item, 'callspec', None), 'params', {}).get('model_name'))
        and item.originalname not in NEED_WEIGHTS
    ]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
