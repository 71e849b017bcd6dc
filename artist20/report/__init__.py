"""What is told of the models: the comparison, the figures, the slides and the model card."""

import os
import sys

# A notebook's shell hands on the name of a backend that may not be installed: matplotlib could not
# be imported. Out of a notebook it is put aside for that moment; no figure here needs one.
if "ipykernel" not in sys.modules and (backend := os.environ.pop("MPLBACKEND", None)):
    try:
        import matplotlib  # noqa: F401
    finally:
        os.environ["MPLBACKEND"] = backend
