"""What all tests share: nothing that a developer exported may change how the server under test behaves."""

import os

from hypothesis import settings

# No test fails because its machine is busy; pytest-timeout ends what hangs.
settings.register_profile("graceserve", deadline=None)
settings.load_profile("graceserve")

for _name in ("PORT", "WEB_CONCURRENCY", *(name for name in os.environ if name.startswith("GRACESERVE_"))):
    if _name not in ("GRACESERVE_REWRITE", "GRACESERVE_TEST_STOCK", "GRACESERVE_TEST_EXAMPLES"):
        os.environ.pop(_name, None)
