"""Inside the block transformers says nothing; after it, it is as before."""

import contextlib

import pytest
from transformers.utils import logging

from aerogel.models.quiet import quiet_transformers


@pytest.mark.parametrize("bars", [True, False])
@pytest.mark.parametrize("verbosity", [logging.INFO, logging.ERROR])
def test_transformers_is_left_as_it_was_found(bars: bool, verbosity: int) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(verbosity)
    (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
    try:
        with contextlib.suppress(KeyError), quiet_transformers():
            assert not logging.is_progress_bar_enabled()
            assert logging.get_verbosity() > logging.ERROR
            raise KeyError
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (verbosity, bars)
    finally:
        logging.set_verbosity(before[0])
        (logging.enable_progress_bar if before[1] else logging.disable_progress_bar)()
