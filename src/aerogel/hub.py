"""Looks up a repository on the Hugging Face hub with one short request, since its clients retry for half a minute."""

from typing import Literal

from huggingface_hub import HfApi
from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from aerogel.errors import first_line

TIMEOUT = 5.0  # seconds


def look_up(repository: str, kind: Literal["model", "dataset"]) -> None:
    """Return if the hub has the repository.

    Raises `LookupError` if it has no such repository, and `ConnectionError` with the reason if the request fails.
    """
    if is_offline_mode():
        raise ConnectionError("offline mode is set")
    try:
        HfApi().repo_info(repository, repo_type=kind, timeout=TIMEOUT)
    except (RepositoryNotFoundError, ValueError) as error:  # ValueError: not a valid repository name
        raise LookupError(f"the hub has no {kind} {repository!r}") from error
    except HfHubHTTPError as error:
        raise ConnectionError(f"status {error.response.status_code}") from error
    except Exception as error:  # the client's own classes differ between versions
        raise ConnectionError(first_line(error)) from error
