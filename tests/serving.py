"""A fixture for tests that talk to the real local server: `from serving import local`.

One server serves the whole test session, whichever files ask for it, and ends with the session; a
test that stops it only makes the next one wait for a new one.
"""

import pytest

from aigc_utils.chat import server


@pytest.fixture
def local() -> server.Server:
    """Return the running local server."""
    return server.start()
