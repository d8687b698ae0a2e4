"""Whether the Hugging Face hub answers: asked once with a short limit, since its clients retry for half a minute."""

from __future__ import annotations

from typing import Literal

from huggingface_hub import HfApi
from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from aerogel.errors import first_line

TIMEOUT = 5.0  # seconds


def look_up(repository: str, kind: Literal["model", "dataset"]) -> None:
    """Returns where the hub has the repository.

    Raises `LookupError` where the hub has none of that name, and `ConnectionError`, with the reason, where it
    could not be asked.
    """
    if is_offline_mode():
        raise ConnectionError("offline mode is set")
    try:
        HfApi().repo_info(repository, repo_type=kind, timeout=TIMEOUT)
    except (RepositoryNotFoundError, ValueError) as error:  # a ValueError: no name that a repository can have
        raise LookupError(f"the hub has no {kind} {repository!r}") from error
    except HfHubHTTPError as error:
        raise ConnectionError(f"it answered {error.response.status_code}") from error
    except Exception as error:  # the client's own kinds differ between its versions
        raise ConnectionError(first_line(error)) from error
