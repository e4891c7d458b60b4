"""Tests of the files in deploy/, with the programs that read these files, as far as one machine can run them."""
