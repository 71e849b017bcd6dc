"""What is told of the models: the comparison, the figures, the slides and the model card."""

import os
import sys

if "ipykernel" not in sys.modules:
    # A notebook's shell hands on the name of a backend that may not be installed: matplotlib could
    # not be imported. No figure here needs one.
    os.environ.pop("MPLBACKEND", None)
