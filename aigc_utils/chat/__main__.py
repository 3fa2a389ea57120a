"""Talk in the terminal: ``python -m aigc_utils.chat``."""

import sys

from aigc_utils.chat import talk

sys.exit(talk.main())
