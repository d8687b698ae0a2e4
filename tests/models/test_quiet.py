"""transformers is silent inside the block, and unchanged after it."""

import contextlib

import pytest
from transformers.utils import logging

from aerogel.models.quiet import quiet_transformers


@pytest.mark.parametrize("bars", [True, False])
@pytest.mark.parametrize("verbosity", [logging.INFO, logging.ERROR])
def test_settings_of_transformers_are_restored(bars: bool, verbosity: int) -> None:
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
