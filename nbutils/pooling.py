"""Where students saved by earlier versions look for `TokenPooling`."""

from nbutils.encoder.pooling import TokenPooling as TokenPooling
