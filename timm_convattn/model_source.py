"""Where a model comes from: the spellings that every command, script and option accepts, parsed once."""

import difflib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import timm

from timm_convattn.errors import InputError

__all__ = ['ModelSource', 'Source']

WANTED = (
    'Give the folder of a run or of a model, local-dir:FOLDER, hf-hub:OWNER/NAME or hf-hub:OWNER/NAME@REVISION, or the '
    'name of a timm model (timm.list_models() lists them).'
)


@dataclass(frozen=True)
class ModelSource:
    """A registered model, a folder, or a repository of the Hub: one of `name`, `folder` and `repo_id` is set."""

    name: str | None = None
    """Name of a timm model, with or without the tag of its weights."""
    folder: Path | None = None
    """Folder of a model, or of a run, which holds its model in the folder `model`."""
    repo_id: str | None = None
    """owner/name"""
    revision: str | None = None
    """Branch, tag or commit of every file that is fetched from the repository. None: the main branch."""

    @classmethod
    def parse(cls, source: 'Source') -> 'ModelSource':
        """Parse a spelling. It may be that of a model that does not exist; `resolve` looks it up.

        Args:
            source: A folder of a run or a model, local-dir:FOLDER, hf-hub:OWNER/NAME[@REVISION] or the name of a timm
                model. A name comes before a folder of the same name, which is spelled local-dir:NAME or ./NAME.

        Raises:
            InputError: If it is none of these.
        """
        if isinstance(source, ModelSource):
            return source
        if not isinstance(source, str):
            return cls(folder=Path(source))
        if timm.is_model(source):
            return cls(name=source)
        scheme, colon, rest = source.partition(':')
        scheme = scheme.lower().replace('_', '-')
        if not colon or not re.fullmatch(r'[a-z][a-z\d-]+', scheme):  # a single letter is a drive of Windows
            return cls(folder=Path(source))
        if scheme == 'local-dir' and rest:
            return cls(folder=Path(rest))
        hub = re.fullmatch(r'([\w.-]+/[\w.-]+)(?:@(.+))?', rest)
        if scheme == 'hf-hub' and hub is not None:
            return cls(repo_id=hub[1], revision=hub[2])
        raise InputError(f'{source!r} is not the spelling of a model. {WANTED}')

    def __str__(self) -> str:
        """The spelling that timm takes."""
        return self.name or (f'local-dir:{self.folder}' if self.folder is not None else f'hf-hub:{self.pinned_id}')

    @property
    def pinned_id(self) -> str | None:
        """The repository with its revision, as owner/name@revision."""
        return f'{self.repo_id}@{self.revision}' if self.revision else self.repo_id

    @property
    def title(self) -> str:
        """A short name, which can name a folder: that of the model, the run or the repository."""
        if self.folder is not None:
            return self.folder.resolve().parent.name if self.folder.name == 'model' else self.folder.resolve().name
        return self.name or str(self.repo_id).rpartition('/')[2]

    def resolve(self) -> 'ModelSource':
        """Return the source with the folder that holds the model itself; repositories are looked up when fetched.

        Raises:
            InputError: If there is no such folder, or no model in it.
        """
        if self.folder is None:
            return self
        for path in (self.folder, self.folder / 'model'):
            if (path / 'config.json').is_file():
                return replace(self, folder=path)
        if self.folder.is_dir():
            raise InputError(f'{self.folder} holds no model: it has no config.json. A run has it in its folder model.')
        close = difflib.get_close_matches(str(self.folder), timm.list_models(), n=3)
        hint = f'Did you mean {" or ".join(close)}?' if close else WANTED
        raise InputError(f'There is no model {str(self.folder)!r}. {hint}')


Source = str | os.PathLike[str] | ModelSource
