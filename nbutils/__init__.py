"""Hard negatives for text embeddings: the mechanisms that the six notebooks show."""

import logging
import warnings

__version__ = "0.1.0"

# bitsandbytes notes at import that an optional CPU kernel is not installed; a reader
# can do nothing with it and the results are the same.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# Libraries ask for a widget bar when they are imported; text bars are wanted here.
warnings.filterwarnings("ignore", message="IProgress not found")
