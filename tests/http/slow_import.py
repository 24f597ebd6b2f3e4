"""An app whose import does not end."""

import atexit
import os
import time

MARK = os.environ["GREEDY_MARK"]
atexit.register(lambda: open(MARK, "w").close())
open(MARK + ".importing", "w").close()
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
