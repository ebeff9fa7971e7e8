"""Errors of the Hub's clients as one sentence each: what happened, and what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, errors, get_token

from timm_convattn.errors import InputError

__all__ = ['explain_hub_failures']

HTTP_ERROR: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # from the HTTP library that huggingface_hub uses

NO_NETWORK = (
    'it could not be reached, and the file is not in the cache. Run this where there is a network, or fill the cache '
    '(HF_HOME) there and copy it here'
)
LOG_IN = 'Log in with `hf auth login`, or set HF_TOKEN to a token from huggingface.co/settings/tokens'


@contextmanager
def explain_hub_failures(repo_id: str, doing: str) -> Iterator[None]:
    """Turn failures of the Hub's clients into an `InputError` that never contains the token.

    Args:
        repo_id: The repository.
        doing: The action for the message, such as 'publish to'.

    Raises:
        InputError: If a client fails.
    """
    try:
        yield
    except InputError:
        raise
    except (HTTP_ERROR, OSError, ValueError) as error:
        sentence = f'Could not {doing} {repo_id} on {constants.ENDPOINT}: {_explain(error)}.'
        token = get_token()
        # from None: the client's error may contain headers, and with them the token
        raise InputError(sentence.replace(token, '<token>') if token else sentence) from None


def _explain(error: Exception) -> str:
    if isinstance(error, errors.LocalEntryNotFoundError | ConnectionError):  # offline mode is one of the latter
        return NO_NETWORK
    if isinstance(error, errors.EntryNotFoundError):
        return f'a required file is missing ({_first_line(error)})'
    if isinstance(error, errors.RevisionNotFoundError):
        return 'there is no such revision. Give a branch, a tag or a full commit'
    if isinstance(error, errors.GatedRepoError):
        return 'access is gated. Accept its terms on its page on the Hub, with the account of your token'
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_status(error)
    if isinstance(error, errors.HFValidationError):
        return f'that is not a valid repository name, wanted owner/name ({_first_line(error)})'
    if isinstance(error, HTTP_ERROR):
        return (
            f'the connection failed ({type(error).__name__}: {_first_line(error)}). No partial commit was made: run '
            'the same command again'
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return 'the disk is full. Free some space (the cache is in HF_HOME), and run the same command again'
    return f'{type(error).__name__}: {_first_line(error)}'


def _explain_status(error: errors.HfHubHTTPError) -> str:
    response = error.response
    status, message = response.status_code, error.server_message or _first_line(error)
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        if get_token() is None:
            return f'it does not exist or is private, and there is no token. {LOG_IN}'
        if status == 401:
            return f'the Hub does not accept the token ({message}). {LOG_IN}'
        return 'it does not exist, or the token has no access to it. Check its name, and the account of the token'
    if status == 403:
        return f'the token is not allowed to ({message}). Use a token with write access, from an account that owns it'
    if status == 409:
        return f'the name is taken ({message}). Choose another one'
    if status == 412:
        return 'it was changed by someone else in the meantime. Run the same command again'
    if status == 429:
        wait = response.headers.get('Retry-After')
        return (
            f'too many requests. Wait {f"{wait} seconds" if wait else "some minutes"}, then run the same command again'
        )
    if status >= 500:
        return f'the Hub has a server error (status {status}: {message}). No partial commit was made: try again later'
    return f'the Hub answered {status} ({message})'


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
