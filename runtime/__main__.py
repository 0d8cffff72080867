# SPDX-License-Identifier: Apache-2.0
"""`python3 -m tower`: the same as the command `tower`."""

import sys

from tower.cli.main import main

sys.exit(main())
