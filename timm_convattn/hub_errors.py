"""What can go wrong between here and the Hub, as a sentence that says what happened and what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, errors, get_token

from timm_convattn.errors import InputError

__all__ = ['explain_hub_failures']

HTTP_ERROR: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # of the HTTP library that the client uses

NO_NETWORK = (
    'it could not be reached, and the cache does not have what is needed. Go on where there is a network, or fill the '
    'cache there and copy it here (HF_HOME)'
)
LOG_IN = 'Log in with `hf auth login`, or set HF_TOKEN to a token from huggingface.co/settings/tokens'


@contextmanager
def explain_hub_failures(repo_id: str, doing: str) -> Iterator[None]:
    """Turn failures of the Hub's clients into an `InputError`; a token is never part of it.

    Args:
        repo_id: The repository in question.
        doing: What fails then, as in 'publish to'.

    Raises:
        InputError: Saying what happened and what to do.
    """
    try:
        yield
    except InputError:
        raise
    except (HTTP_ERROR, OSError, ValueError) as error:
        sentence = f'Could not {doing} {repo_id} on {constants.ENDPOINT}: {_explain(error)}.'
        token = get_token()
        # from None: what the client raised may hold headers, and with them the token
        raise InputError(sentence.replace(token, '<token>') if token else sentence) from None


def _explain(error: Exception) -> str:
    if isinstance(error, errors.LocalEntryNotFoundError | ConnectionError):  # offline mode is one of the latter
        return NO_NETWORK
    if isinstance(error, errors.EntryNotFoundError):
        return f'it lacks a file that is needed ({_first_line(error)})'
    if isinstance(error, errors.RevisionNotFoundError):
        return 'there is no such revision. Give a branch, a tag or a full commit'
    if isinstance(error, errors.GatedRepoError):
        return 'its owner asks for consent first. Give it on its page on the Hub, with the account of your token'
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_status(error)
    if isinstance(error, errors.HFValidationError):
        return f'that is no name of a repository, wanted owner/name ({_first_line(error)})'
    if isinstance(error, HTTP_ERROR):
        return (
            f'the connection failed ({type(error).__name__}: {_first_line(error)}). Nothing is half done: run the same '
            'command again'
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return 'the disk is full. Make room (the cache is in HF_HOME), and run the same command again'
    return f'{type(error).__name__}: {_first_line(error)}'


def _explain_status(error: errors.HfHubHTTPError) -> str:
    response = error.response
    status, said = response.status_code, error.server_message or _first_line(error)
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        if get_token() is None:
            return f'it is not there or not for everyone, and there is no token. {LOG_IN}'
        if status == 401:
            return f'the Hub does not accept the token ({said}). {LOG_IN}'
        return 'there is no such repository that the token may see. Check its name, and whose token it is'
    if status == 403:
        return (
            f'the token has no right to do that ({said}). Use one with the right to write, of an account that owns it'
        )
    if status == 409:
        return f'the name is taken ({said}). Give another one'
    if status == 412:
        return 'somebody else has changed it in between. Run the same command again'
    if status == 429:
        wait = response.headers.get('Retry-After')
        return (
            f'too many requests. Wait {f"{wait} seconds" if wait else "some minutes"}, then run the same command again'
        )
    if status >= 500:
        return f'the Hub has a problem of its own (status {status}: {said}). Nothing is half done: try again later'
    return f'the Hub answered {status} ({said})'


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
