"""What all tests share: nothing that a developer exported may change how the server under test behaves."""

import os

for _name in ("PORT", "WEB_CONCURRENCY", *(name for name in os.environ if name.startswith("GRACESERVE_"))):
    if _name not in ("GRACESERVE_REWRITE", "GRACESERVE_TEST_STOCK"):
        os.environ.pop(_name, None)
